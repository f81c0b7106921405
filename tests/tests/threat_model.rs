//! The threat model lists every vector that is tried, with what closes it, and no other.

use std::{fs, path::Path};

use sluice_tests::vectors::rows;

/// What the table stands between.
const BEGIN: &str = "<!-- vectors: `BLESS=1 cargo nextest run -p sluice-tests threat_model` -->\n";
const END: &str = "<!-- end of vectors -->";

#[test]
fn every_vector_is_in_the_threat_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/THREAT_MODEL.md");
    let text = fs::read_to_string(&path).expect("a threat model");
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (told, after) = rest.split_once(END).expect("where the table ends");
    let table = rows::table();
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
        return;
    }
    let only = |one: &str, other: &str| -> Vec<String> {
        let other: Vec<_> = other.lines().collect();
        let lines = one.lines().filter(|line| !other.contains(line));
        lines.map(str::to_owned).collect()
    };
    assert!(
        told == table,
        "the document and the table differ (the comment above it says how to bless it)\n\
         only in the document: {:#?}\nonly in the table: {:#?}",
        only(told, &table),
        only(&table, told)
    );
}
