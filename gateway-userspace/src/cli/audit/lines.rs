//! Lines of a file of any size, in constant memory.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
};

use crate::audit::MAX_LINE;

/// What comes next in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cli) enum Piece<'a> {
    /// A complete line, without its newline.
    Line(&'a [u8]),
    /// A complete line longer than any audit record, with its length in bytes.
    TooLong(u64),
    /// The end of the file, after so many bytes of an unfinished line.
    End(u64),
}

/// A reader that may be asked again after the end, when the file has grown.
#[derive(Debug)]
pub(in crate::cli) struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
    /// Length of the line so far, also of what was not kept.
    length: u64,
    /// Whether `line` was handed out complete.
    taken: bool,
    position: u64,
}

impl Lines {
    /// Lines from the start of the file.
    pub(in crate::cli) fn new(file: File) -> Self {
        Self {
            file: BufReader::with_capacity(MAX_LINE, file),
            line: Vec::new(),
            length: 0,
            taken: false,
            position: 0,
        }
    }

    /// The last `count` complete lines of the file, and what follows them.
    pub(in crate::cli) fn last(mut file: File, count: u64) -> io::Result<Self> {
        let position = start_of_last(&mut file, count)?;
        file.seek(SeekFrom::Start(position))?;
        Ok(Self {
            position,
            ..Self::new(file)
        })
    }

    /// The file.
    pub(in crate::cli) fn file(&self) -> &File {
        self.file.get_ref()
    }

    /// Bytes of the file that were read.
    pub(in crate::cli) const fn position(&self) -> u64 {
        self.position
    }

    /// Begins again at the start of the file, which was cut.
    pub(in crate::cli) fn rewind(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.position = 0;
        self.forget();
        Ok(())
    }

    /// The next piece.
    pub(in crate::cli) fn next(&mut self) -> io::Result<Piece<'_>> {
        if std::mem::take(&mut self.taken) {
            self.forget();
        }
        loop {
            let available = match self.file.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if available.is_empty() {
                return Ok(Piece::End(self.length));
            }
            let newline = memchr::memchr(b'\n', available);
            let part = newline.map_or(available, |at| available.split_at(at).0);
            let room = MAX_LINE.saturating_sub(self.line.len()).min(part.len());
            self.line.extend_from_slice(part.split_at(room).0);
            self.length += part.len() as u64;
            let used = part.len() + usize::from(newline.is_some());
            self.file.consume(used);
            self.position += used as u64;
            if newline.is_some() {
                self.taken = true;
                return Ok(if self.length > MAX_LINE as u64 {
                    Piece::TooLong(self.length)
                } else {
                    Piece::Line(&self.line)
                });
            }
        }
    }

    fn forget(&mut self) {
        self.line.clear();
        self.length = 0;
    }
}

/// Where the last `count` complete lines begin; an unfinished one after them does not count.
fn start_of_last(file: &mut File, count: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 * 1024];
    let mut end = file.seek(SeekFrom::End(0))?;
    // The newline before the first wanted line: one more than there are lines.
    let mut newlines = 0;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let size = usize::try_from(end - start).map_err(io::Error::other)?;
        let block = block.split_at_mut(size).0;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(block)?;
        for at in memchr::memrchr_iter(b'\n', block) {
            newlines += 1;
            if newlines > count {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn rest(lines: &mut Lines) -> (Vec<String>, u64) {
        let mut found = Vec::new();
        loop {
            match lines.next().unwrap() {
                Piece::Line(line) => found.push(String::from_utf8(line.to_vec()).unwrap()),
                Piece::TooLong(length) => found.push(format!("<{length}>")),
                Piece::End(unfinished) => return (found, unfinished),
            }
        }
    }

    #[test]
    fn counts_from_the_end() {
        let table: [(&str, u64, &[&str], u64); 8] = [
            ("", 3, &[], 0),
            ("a\n", 0, &[], 0),
            ("a\nb\nc\n", 1, &["c"], 0),
            ("a\nb\nc\n", 2, &["b", "c"], 0),
            ("a\nb\nc\n", 3, &["a", "b", "c"], 0),
            ("a\nb\nc\n", 9, &["a", "b", "c"], 0),
            ("a\nb\nto", 1, &["b"], 2),
            ("torn", 1, &[], 4),
        ];
        for (content, count, expected, unfinished) in table {
            let mut lines = Lines::last(file(content.as_bytes()), count).unwrap();
            assert_eq!(rest(&mut lines).0, expected, "{content:?} {count}");
            assert_eq!(lines.next().unwrap(), Piece::End(unfinished));
            assert_eq!(lines.position(), content.len() as u64);
        }
    }

    #[test]
    fn lines_of_every_length_around_the_blocks() {
        for length in [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE] {
            let long = "x".repeat(length);
            let mut lines = Lines::last(file(format!("a\n{long}\nb\n").as_bytes()), 2).unwrap();
            let first = if length > MAX_LINE {
                format!("<{length}>")
            } else {
                long
            };
            assert_eq!(rest(&mut lines).0, [first, "b".to_owned()], "{length}");
        }
    }

    #[test]
    fn an_unfinished_line_is_completed_when_the_file_grows() {
        let content = file(b"a\nb");
        let mut lines = Lines::last(content.try_clone().unwrap(), 5).unwrap();
        assert_eq!(rest(&mut lines), (vec!["a".to_owned()], 1));
        // Both descriptors share their offset, which is the end of the file now.
        (&content).write_all(b"c\nd\n").unwrap();
        content_back(&content, 4);
        assert_eq!(rest(&mut lines), (vec!["bc".to_owned(), "d".to_owned()], 0));
    }

    fn content_back(mut file: &File, bytes: i64) {
        file.seek(SeekFrom::Current(-bytes)).unwrap();
    }
}
