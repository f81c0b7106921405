//! Real programs that fetch packages and repositories, inside opened TLS: what they are allowed
//! lies beside what they are not, on the same server.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    needs, needs_root,
    origin::{ALLOWED, Origin},
    skip,
    world::World,
};

use super::{BOTH, run, text};

/// Runs a script of the shell's in both ways under a policy with these paths; what it says must
/// be this, and the origin was not asked for anything with `other` in its path.
fn check(
    prepare: impl FnOnce(&Origin) -> Result<()>,
    paths: &str,
    script: &str,
    expected: &str,
) -> Result<()> {
    let nginx = needs!(skip::program("nginx"));
    let world = World::new()?;
    let origin = Origin::start(&world, &nginx)?;
    prepare(&origin)?;
    let rule = format!("methods = [\"GET\"]\npaths = [{paths}]");
    for way in BOTH {
        let before = origin.requests()?.len();
        let words = way.command(["/bin/sh", "-c", script]);
        let finished = run(&world, &origin, &way.policy(443, &rule), words)?;
        ensure!(finished.status == 0, "{way:?}: {finished:#?}");
        ensure!(finished.out() == expected, "{way:?}: {finished:#?}");
        let refused = [("kind", "http"), ("outcome", "deny"), ("status", "403")];
        ensure!(
            !finished.records_with(&refused).is_empty(),
            "{way:?}: {finished:#?}"
        );
        let asked = origin.requests()?;
        ensure!(asked.len() > before, "{way:?}: {asked:#?}");
        ensure!(
            !asked.iter().any(|it| it.contains("other")),
            "{way:?}: {asked:#?}"
        );
    }
    Ok(())
}

#[test]
fn git_clone() -> Result<()> {
    needs_root!();
    let script = format!(
        "cd $(mktemp -d) && /usr/bin/git clone --quiet https://{ALLOWED}/repository.git it && \
         cat it/README && ! /usr/bin/git clone --quiet https://{ALLOWED}/other.git other"
    );
    let prepare = |origin: &Origin| origin.add_repository("cloned through opened TLS\n");
    check(
        prepare,
        "\"/repository.git/**\"",
        &script,
        "cloned through opened TLS\n",
    )
}

/// Makes a package of Python's and an index of it.
const WHEEL: &str = r#"
import os, sys, zipfile
folder, name = sys.argv[1:]
wheel = f"{name}-1.0-py3-none-any.whl"
os.makedirs(f"{folder}/simple/{name}")
os.makedirs(f"{folder}/wheels", exist_ok=True)
with open(f"{folder}/simple/{name}/index.html", "w") as index:
    index.write(f'<!DOCTYPE html><html><body><a href="/wheels/{wheel}">{wheel}</a></body></html>')
about = f"{name}-1.0.dist-info"
files = {
    f"{name}.py": f"print('from {name}')\n",
    f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
    f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
with zipfile.ZipFile(f"{folder}/wheels/{wheel}", "w") as archive:
    for path, text in files.items():
        archive.writestr(path, text)
"#;

#[test]
fn pip_install() -> Result<()> {
    needs_root!();
    let python = needs!(skip::python("pip"));
    let prepare = |origin: &Origin| {
        for name in ["sample", "other"] {
            let mut make = Command::new(python);
            make.args(["-c", WHEEL]).arg(origin.files()).arg(name);
            succeed(make)?;
        }
        Ok(())
    };
    let script = format!(
        "cd $(mktemp -d) && export HOME=$PWD && \
         pip='{python} -m pip --quiet --disable-pip-version-check --no-cache-dir --retries 0' && \
         from='--no-deps --target here --index-url https://{ALLOWED}/simple/' && \
         $pip install $from sample && {python} here/sample.py && ! $pip install $from other"
    );
    let paths = "\"/simple/sample/**\", \"/wheels/sample-1.0-py3-none-any.whl\"";
    check(prepare, paths, &script, "from sample\n")
}

#[test]
fn npm_install() -> Result<()> {
    needs_root!();
    let npm = text(&needs!(skip::program("npm")));
    let prepare = |origin: &Origin| {
        ["sample", "other"]
            .iter()
            .try_for_each(|name| publish(&npm, origin, name))
    };
    let script = format!(
        "cd $(mktemp -d) && export HOME=$PWD && \
         npm='{npm} --loglevel error --no-audit --no-fund --no-update-notifier --fetch-retries 0' && \
         from='--registry https://{ALLOWED}/npm/' && \
         $npm install $from sample >&2 && node -e 'require(\"sample\")' && \
         ! $npm install $from other >&2"
    );
    let paths = "\"/npm/sample\", \"/npm/-/sample-1.0.0.tgz\"";
    check(prepare, paths, &script, "from sample\n")
}

/// Puts a package where npm looks for it.
fn publish(npm: &str, origin: &Origin, name: &str) -> Result<()> {
    let registry = origin.files().join("npm");
    let archives = registry.join("-");
    let source = tempfile::tempdir()?;
    fs::create_dir_all(&archives)?;
    let about = serde_json::json!({"name": name, "version": "1.0.0", "main": "main.js"});
    fs::write(source.path().join("package.json"), about.to_string())?;
    fs::write(
        source.path().join("main.js"),
        format!("console.log('from {name}')"),
    )?;
    let mut pack = Command::new(npm);
    pack.args(["pack", "--silent", "--offline", "--pack-destination"])
        .arg(&archives)
        .current_dir(source.path());
    succeed(pack)?;
    let archive = format!("https://{ALLOWED}/npm/-/{name}-1.0.0.tgz");
    let version = serde_json::json!({
        "name": name, "version": "1.0.0", "main": "main.js", "dist": {"tarball": archive},
    });
    let about = serde_json::json!({
        "name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version},
    });
    fs::write(registry.join(name), about.to_string())?;
    Ok(())
}

fn succeed(mut command: Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("starting {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}
