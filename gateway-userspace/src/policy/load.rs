//! From the bytes of a file to a [`Policy`]: everything that is wrong is found in one go.
//!
//! Each key is read by serde on its own rather than a struct at a time, since serde stops at the
//! first error. A key that is not in [`schema`] is an error, as with `deny_unknown_fields`.

use std::{fs::File, io::Read as _, path::Path, sync::Arc};

use sha2::{Digest as _, Sha256};
use toml::{Spanned, de::DeTable};

use super::{
    Compiled, Fault, Mode, Policy, PolicyErrors, Upstream,
    carry::Files,
    fault::FILE_MAX,
    index::Index,
    report::{Problems, is_hidden},
};
use crate::names::{AgentId, PolicyDigest};

mod bind;
mod egress;
mod json_schema;
mod mcp;
mod process;
mod reader;
mod schema;
mod sections;
mod shadow;
mod test;
mod upstream;

pub(super) use json_schema::document as json_schema;
use reader::Section;

/// Reads and compiles a file.
pub(super) fn file(path: &Path) -> Result<Policy, PolicyErrors> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let read = File::open(path)
        // One byte more than allowed tells a file that is too large, however long it is.
        .and_then(|file| file.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => {
            let folder = path.parent().unwrap_or(Path::new(""));
            self::bytes(&name, &bytes, Files::Folder(folder))
        }
        Err(error) => Err(whole(&name, Fault::Unreadable(error))),
    }
}

/// Compiles what a file holds.
pub(super) fn bytes(name: &str, bytes: &[u8], files: Files<'_>) -> Result<Policy, PolicyErrors> {
    if bytes.len() > FILE_MAX {
        return Err(whole(name, Fault::TooLarge));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(whole(name, Fault::NotUtf8));
    };
    let digest = PolicyDigest(Sha256::digest(bytes).into());
    let mut problems = Problems::default();
    let compiled = document(text, &mut problems).and_then(|document| {
        // Warnings are about a policy that works.
        compile(document, digest, files, &mut problems)
    });
    let has_errors = problems.has_errors();
    let problems = problems.finish(name, text);
    match compiled {
        Some(mut compiled) if !has_errors => {
            compiled.warnings = problems;
            text.clone_into(&mut compiled.source);
            Ok(Policy {
                agent: compiled.agent.clone(),
                mode: compiled.mode,
                node: None,
                inner: Arc::new(compiled),
            })
        }
        Some(_) | None => Err(problems),
    }
}

fn whole(name: &str, fault: Fault) -> PolicyErrors {
    let mut problems = Problems::default();
    problems.add_whole(fault);
    problems.finish(name, "")
}

/// Parses TOML. Where that fails, what could be read is not looked into: most of what one would
/// find there follows from the first error.
fn document<'i>(text: &'i str, problems: &mut Problems) -> Option<Spanned<DeTable<'i>>> {
    for (at, c) in text.char_indices() {
        if is_hidden(c) && !matches!(c, '\n' | '\t' | '\r') {
            problems.add(Fault::Hidden(c), at..at + c.len_utf8());
        }
    }
    if problems.has_errors() {
        return None;
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let fault = Fault::Syntax(error.message().to_owned());
        match error.span() {
            Some(span) => problems.add(fault, span),
            None => problems.add_whole(fault),
        }
    }
    (!problems.has_errors()).then_some(document)
}

fn compile(
    document: Spanned<DeTable<'_>>,
    digest: PolicyDigest,
    files: Files<'_>,
    problems: &mut Problems,
) -> Option<Compiled> {
    let mut root = Section::new(document, &schema::ROOT, problems);
    if let Some(schema) = root.require::<i64>("schema", problems)
        && *schema.get_ref() != 1
    {
        problems.add(Fault::Schema(*schema.get_ref()), schema.span());
    }
    let agent = root.require::<String>("agent", problems).and_then(|name| {
        AgentId::parse(name.get_ref())
            .map_err(|bad| problems.add(bad, name.span()))
            .ok()
    });
    let mode: Mode = root.word("mode", problems);
    let assurance = root.word("assurance", problems);
    let inspect = root.word("inspect", problems);
    let network = sections::network(
        root.section("network", &schema::NETWORK, problems),
        problems,
    );
    let process = process::process(
        root.section("process", &schema::PROCESS, problems),
        problems,
    );
    let dns = sections::dns(root.section("dns", &schema::DNS, problems), problems);
    let bind = bind::bind(root.section("bind", &schema::BIND, problems), problems);
    let mut limit = root.section("limit", &schema::LIMIT, problems);
    let requests = egress::rate("requests", &mut limit, problems);
    let mut section = root.section("upstream", &schema::UPSTREAM, problems);
    let (trust, mut attached) = upstream::trust(&mut section, files, problems);
    let client = upstream::client(&mut section, files, &mut attached, problems);
    let proxy = upstream::proxy(&mut section, problems);
    let statics = sections::resolve(section, problems);
    let egress = root.sections("egress", &schema::EGRESS, problems);
    let mcp = root.sections("mcp", &schema::MCP, problems);
    let drafts = egress::rules(egress, mcp, inspect, problems);
    let known: Vec<_> = drafts.iter().map(|draft| &draft.rule).collect();
    let tests = root.sections("test", &schema::TEST, problems);
    let tests = test::tests(tests, &known, problems);
    if problems.has_errors() {
        return None;
    }
    let (rules, places): (Vec<_>, Vec<_>) = drafts
        .into_iter()
        .map(|draft| (draft.rule, draft.place))
        .unzip();
    let index = Index::new(&rules);
    shadow::warn(&rules, &places, &index, problems);
    let upstream = Upstream {
        resolve: sections::settle(statics, &rules, &index, problems),
        trust,
        client,
        proxy,
    };
    Some(Compiled {
        digest,
        agent: agent?,
        mode,
        assurance,
        network,
        process,
        dns,
        upstream,
        inspect,
        requests,
        bind,
        attached,
        rules,
        index,
        tests,
        warnings: Problems::default().finish("", ""),
        source: String::new(),
    })
}
