//! What must hold of each parser for whatever octets: the targets of `cargo xtask fuzz`, which are
//! also run over the kept corpus with the unit tests.
//!
//! A parser that does not panic is not yet right. Each target compares: with itself where the same
//! octets come in pieces, with what is written from what was read, or with a reader that others
//! wrote.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a target says that something does not hold"
)]

mod answers;
mod content;
mod dns;
mod http1;
mod policy;
mod streams;
mod tls;

/// A target: its name, which is that of its folder in the corpus, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("request_head", http1::request_head),
    ("response_head", http1::response_head),
    ("chunked", http1::chunked),
    ("client_hello", tls::client_hello),
    ("dns", dns::message),
    ("policy", policy::file),
    ("websocket", streams::websocket),
    ("sse", streams::sse),
    ("mcp_answer", answers::mcp_answer),
    ("content", content::coded),
    ("json", content::json),
    ("multipart", content::multipart),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::TARGETS;

    #[test]
    fn what_was_found_once_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
        for (name, target) in TARGETS {
            let inputs: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(!inputs.is_empty(), "no input for {name}");
            for input in inputs {
                let path = input.unwrap().path();
                let octets = std::fs::read(&path).unwrap();
                eprintln!("{}", path.display());
                target(&octets);
            }
        }
    }

    #[test]
    fn every_folder_of_the_corpus_has_a_target() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
        let mut folders: Vec<_> = std::fs::read_dir(corpus)
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        folders.sort();
        let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(folders, names);
    }
}
