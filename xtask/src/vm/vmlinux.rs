//! Takes the kernel proper out of the compressed image that distributions ship.
//!
//! QEMU starts an ELF `vmlinux` directly (PVH), which spares the emulated machine from
//! decompressing it: many seconds without hardware to help.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail};

/// Where the setup header says how many sectors the real-mode part has, less one.
const SECTORS: usize = 0x1f1;
/// `HdrS`.
const MAGIC: usize = 0x202;
/// Offset and length of the payload, after the real-mode part (boot protocol 2.08).
const PAYLOAD: usize = 0x248;
const SECTOR: usize = 512;
/// Largest kernel that is believed, bytes.
const LARGEST: u64 = 512 << 20;
/// A block of LZ4's legacy format, bytes.
const LZ4_BLOCK: usize = 8 << 20;

const ELF: &[u8] = b"\x7fELF";

/// The ELF image inside a bzImage.
///
/// # Errors
/// It is no bzImage, or compressed in a way that this does not know.
pub(super) fn extract(image: &[u8]) -> Result<Vec<u8>> {
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        bail!("not a bzImage: no setup header");
    }
    let sectors = match image.get(SECTORS) {
        Some(0) | None => 4,
        Some(&sectors) => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + word(image, PAYLOAD)?;
    let length = word(image, PAYLOAD + 4)?;
    let payload = image
        .get(start..)
        .and_then(|rest| rest.get(..length))
        .context("the payload is cut off")?;
    let kernel = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd(payload)?,
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => lz4(rest)?,
        [a, b, c, d, ..] => {
            bail!("compressed in a way that is not known: {a:02x}{b:02x}{c:02x}{d:02x}")
        }
        _ => bail!("the payload is empty"),
    };
    if !kernel.starts_with(ELF) {
        bail!("what was compressed is no ELF file");
    }
    Ok(kernel)
}

/// A little-endian word of the header.
fn word(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image
        .get(at..at + 4)
        .context("the setup header is cut off")?;
    let bytes: [u8; 4] = bytes.try_into().expect("four bytes were taken");
    usize::try_from(u32::from_le_bytes(bytes)).context("a word past usize")
}

/// One frame; after it comes the length, which is not part of it.
fn zstd(payload: &[u8]) -> Result<Vec<u8>> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(payload).context("reading zstd")?;
    let mut kernel = Vec::new();
    decoder
        .take(LARGEST)
        .read_to_end(&mut kernel)
        .context("decompressing zstd")?;
    Ok(kernel)
}

/// Blocks with their lengths in front, until they end; a length that leads past the end is not
/// one, but that of the kernel, which the build appends.
fn lz4(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut kernel = Vec::new();
    while rest.len() > 4 {
        let (length, after) = rest.split_at(4);
        let length = word(length, 0)?;
        let Some(block) = after.get(..length) else {
            break;
        };
        let block =
            lz4_flex::block::decompress(block, LZ4_BLOCK).context("decompressing an LZ4 block")?;
        kernel.extend(block);
        rest = &after[length..];
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::{PAYLOAD, SECTOR, extract, lz4};

    /// A bzImage with this payload.
    fn image(payload: &[u8]) -> Vec<u8> {
        const OFFSET: usize = 16;
        let mut image = vec![0; 2 * SECTOR + OFFSET];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[PAYLOAD..PAYLOAD + 4].copy_from_slice(&(OFFSET as u32).to_le_bytes());
        image[PAYLOAD + 4..PAYLOAD + 8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        // What follows is not part of it.
        image.extend_from_slice(b"more");
        image
    }

    /// LZ4's legacy format, with the length of all at the end, as kernels have it.
    fn compressed(blocks: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![0x02, 0x21, 0x4c, 0x18];
        let mut length = 0;
        for block in blocks {
            let packed = lz4_flex::block::compress(block);
            out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
            out.extend_from_slice(&packed);
            length += block.len() as u32;
        }
        out.extend_from_slice(&length.to_le_bytes());
        out
    }

    #[test]
    fn a_kernel_in_lz4_comes_out_whole() {
        let (first, second) = (b"\x7fELF and".repeat(1000), b" more".repeat(100));
        let found = extract(&image(&compressed(&[&first, &second]))).expect("a kernel");
        assert_eq!(found, [first, second].concat());
    }

    #[test]
    fn a_kernel_in_zstd_comes_out_whole() {
        // `printf '\177ELF kernel' | zstd --no-check`, and four bytes of length.
        let packed = ruzstd::encoding::compress_to_vec(
            &b"\x7fELF kernel"[..],
            ruzstd::encoding::CompressionLevel::Uncompressed,
        );
        let payload = [packed.as_slice(), &11_u32.to_le_bytes()].concat();
        assert_eq!(
            extract(&image(&payload)).expect("a kernel"),
            b"\x7fELF kernel"
        );
    }

    #[test]
    fn what_is_no_kernel_is_refused_and_named() {
        let gzip = image(b"\x1f\x8b\x08\x00and so on");
        let not_elf = image(&compressed(&[b"something else"]));
        let mut cut = image(&compressed(&[b"\x7fELF"]));
        cut.truncate(2 * SECTOR + 20);
        for (bytes, expected) in [
            (b"short".to_vec(), "no setup header"),
            (gzip, "1f8b0800"),
            (not_elf, "no ELF file"),
            (cut, "cut off"),
        ] {
            let error = extract(&bytes).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_broken_block_is_an_error() {
        assert!(lz4(&[2, 0, 0, 0, 0xff, 0xff, 0, 0]).is_err());
    }
}
