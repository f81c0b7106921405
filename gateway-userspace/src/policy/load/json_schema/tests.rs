use jsonschema::Validator;
use toml::{Table as Toml, Value as TomlValue};

use super::*;
use crate::policy::{Fault, Policy};

fn validator() -> Validator {
    jsonschema::draft202012::new(&document()).expect("a schema")
}

/// What an editor would see of a file.
fn instance(text: &str) -> Value {
    toml::from_str(text).expect("TOML")
}

const BASE: &str = r#"
schema = 1
agent = "a"
network = {}
process = {}
dns = {}
limit = {}
upstream = {}
egress = [{ id = "x", hosts = ["a.example"] }]
test = [{ name = "n", input = { http = "http://a.example/" }, expect = { action = "allow" } }]
"#;

#[test]
fn the_schema_is_one() {
    jsonschema::draft202012::meta::validate(&document()).expect("a schema of schemas");
}

#[test]
fn shipped_policies_fit() {
    let validator = validator();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the shipped policies") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a file");
        let errors: Vec<_> = validator
            .iter_errors(&instance(&text))
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        seen += 1;
    }
    assert!(seen >= 3);
    assert!(validator.is_valid(&instance(BASE)));
}

#[test]
fn broken_ones_do_not() {
    let validator = validator();
    for (from, to) in [
        ("schema = 1", ""),
        ("schema = 1", "schema = 2"),
        ("agent = \"a\"", "agnet = \"a\""),
        ("agent = \"a\"", "agent = \"a\"\nmode = \"observed\""),
        (
            "agent = \"a\"",
            "agent = \"a\"\nbind = { systemd = \"a.service\" }",
        ),
        ("network = {}", "network = { loopback = [\"own\"] }"),
        ("network = {}", "network = { loopback = [0] }"),
        ("hosts = [\"a.example\"]", "hosts = \"a.example\""),
        ("hosts = [\"a.example\"]", "ports = [443]"),
        (
            "hosts = [\"a.example\"]",
            "hosts = [\"a.example\"], tcp = [\"a.example:1\"]",
        ),
        (
            "hosts = [\"a.example\"]",
            "hosts = [\"a.example\"], ports = [70000]",
        ),
        (
            "upstream = {}",
            "upstream = { resolve = { \"a.example\" = [] } }",
        ),
        ("input = { http = \"http://a.example/\" }", "input = {}"),
        (
            "input = { http = \"http://a.example/\" }",
            "input = { http = { method = \"GET\" } }",
        ),
        ("action = \"allow\"", "reason = \"no_rule\""),
    ] {
        let text = BASE.replacen(from, to, 1);
        assert_ne!(text, BASE, "{from}");
        assert!(!validator.is_valid(&instance(&text)), "{to}");
        assert!(Policy::parse("a.toml", &text).is_err(), "{to}");
    }
}

/// The forms of a section, and how the table is reached from the root.
fn sections() -> Vec<(&'static [&'static str], &'static Forms)> {
    vec![
        (&[], &ROOT_FORMS),
        (&["network"], &NETWORK_FORMS),
        (&["process"], &PROCESS_FORMS),
        (&["dns"], &DNS_FORMS),
        (&["limit"], &LIMIT_FORMS),
        (&["upstream"], &UPSTREAM_FORMS),
        (&["egress"], &EGRESS_FORMS),
        (&["test"], &TEST_FORMS),
        (&["test", "input"], &INPUT_FORMS),
        (&["test", "input", "http"], &INPUT_HTTP_FORMS),
        (&["test", "input", "connect"], &INPUT_PLACE_FORMS),
        (&["test", "input", "tcp"], &INPUT_TCP_FORMS),
        (&["test", "input", "dns"], &INPUT_DNS_FORMS),
        (&["test", "expect"], &EXPECT_FORMS),
    ]
}

#[test]
fn every_key_has_a_form_and_no_form_is_left_over() {
    for (path, forms) in sections() {
        let table = (forms.table)();
        let built = table
            .keys
            .iter()
            .filter(|key| matches!(key.state, State::Built(_)));
        let mut built: Vec<_> = built.map(|key| key.name).collect();
        let mut known: Vec<_> = forms.keys.iter().map(|(name, ..)| *name).collect();
        built.sort_unstable();
        known.sort_unstable();
        assert_eq!(built, known, "{path:?}");
    }
}

/// The table at this path, made where it is not there.
fn reach<'t>(mut table: &'t mut Toml, path: &[&str]) -> &'t mut Toml {
    for key in path {
        let made = table
            .entry(*key)
            .or_insert_with(|| TomlValue::Table(Toml::new()));
        table = match made {
            TomlValue::Table(table) => table,
            TomlValue::Array(list) => list[0].as_table_mut().expect("a table"),
            other => {
                *other = TomlValue::Table(Toml::new());
                other.as_table_mut().expect("just made")
            }
        };
    }
    table
}

/// What the loader takes, the schema takes; what the loader takes for a value of another type, the
/// schema does too.
#[test]
fn loader_and_schema_agree_on_types() {
    const VALUES: &str = r#"
        values = [1, 0, -1, 70000, true, "x", "self", "GET", "60/min", ["x"], ["self"], ["/x"],
            ["GET"], ["A"], ["a.example:1"], [1], [true], [], {}, { a = "x" },
            { "a.example" = ["192.0.2.1"] }, { a = 1 }, [{}], 1.5]
    "#;
    let validator = validator();
    let values: Toml = VALUES.parse().expect("values");
    let mut refused = 0;
    for (path, forms) in sections() {
        for (key, form, _) in forms.keys {
            let mut values = values["values"].as_array().expect("a list").clone();
            if let Form::Word(words) | Form::Choice(words) = form {
                values.extend(words().into_iter().map(TomlValue::from));
            }
            for value in values {
                let mut file: Toml = BASE.parse().expect("the base");
                if let ["test", "input", rest @ ..] = path {
                    reach(&mut file, &["test", "input"]).clear();
                    if let [inner, ..] = rest {
                        let good = match *inner {
                            "http" => "url = \"http://a.example/\"",
                            "tcp" => "to = \"192.0.2.1:1\"",
                            "dns" => "name = \"a.example\"",
                            _place => "to = \"a.example:443\"",
                        };
                        let good: Toml = good.parse().expect("a request");
                        reach(&mut file, path).extend(good);
                    }
                }
                let table = reach(&mut file, path);
                if *key == "tcp" {
                    table.remove("hosts");
                }
                table.insert((*key).to_owned(), value.clone());
                let text = toml::to_string(&file).expect("TOML");
                let fits = validator.is_valid(&instance(&text));
                match Policy::parse("a.toml", &text) {
                    Ok(_) => assert!(fits, "{path:?} {key} = {value} is good:\n{text}"),
                    Err(errors) => {
                        let of_type = errors.problems().iter().any(|problem| {
                            matches!(problem.fault(), Fault::Type { .. } | Fault::Word { .. })
                        });
                        assert!(!(fits && of_type), "{path:?} {key} = {value}: {errors}");
                        refused += usize::from(of_type);
                    }
                }
            }
        }
    }
    assert!(refused > 500, "{refused}");
}
