//! Kernels' code as the crate carries it: several of a kind in one zstd frame, which say most of each other.

use std::io::{self, Read};

use ruzstd::decoding::StreamingDecoder;

/// One kernel's part of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    /// The whole frame.
    pub(crate) frame: &'static [u8],
    /// Where the part begins in what the frame holds.
    pub(crate) at: usize,
    /// Its bytes.
    pub(crate) bytes: usize,
}

impl Packed {
    /// The part, unpacked: what comes behind it in the frame is not.
    pub(crate) fn unpack(&self) -> io::Result<Vec<u8>> {
        let mut frame = self.frame;
        let mut content = StreamingDecoder::new(&mut frame).map_err(io::Error::other)?;
        io::copy(&mut content.by_ref().take(self.at as u64), &mut io::sink())?;
        let mut part = Vec::with_capacity(self.bytes + 1);
        content.take(self.bytes as u64).read_to_end(&mut part)?;
        if part.len() < self.bytes {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the frame ends before the kernel does"));
        }
        Ok(part)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame that holds bytes as they are.
    pub(crate) fn frame(content: &[u8]) -> &'static [u8] {
        ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest).leak()
    }

    #[test]
    fn a_part_is_found_and_the_rest_left_out() {
        let content: Vec<u8> = (0..300_000u32).map(|i| (i / 7) as u8).collect();
        let frame = frame(&content);
        for (at, bytes) in [(0, 10), (150_000, 140_000), (299_999, 1), (300_000, 0)] {
            let part = Packed { frame, at, bytes }.unpack().expect("it is all there");
            assert_eq!(part, &content[at..at + bytes], "{at} {bytes}");
        }
        let beyond = Packed { frame, at: 299_999, bytes: 2 }.unpack().expect_err("one byte too many");
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
        assert!(Packed { frame: b"not a frame", at: 0, bytes: 1 }.unpack().is_err());
    }
}
