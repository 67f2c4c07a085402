//! The protocol of a server that does not speak HTTP/2, recognized by the first bytes of its answer. The error of a client
//! that connected to the wrong port names it.

/// The bytes that suffice to tell protocols apart.
const TELLING_BYTES: usize = 5;

/// The bytes of an answer that are shown in an error.
const SHOWN_BYTES_MAX: usize = 24;

/// Returns what is wrong with the first bytes a server has sent, if no frame begins so. A frame that is short enough
/// begins with a zero octet (RFC 9113 §4.1, §4.2), and no answer of another protocol does.
pub(crate) fn complaint(first: &[u8]) -> Option<String> {
    if first.len() < TELLING_BYTES || first[0] == 0 {
        return None;
    }
    let protocol = match first {
        [0x15 | 0x16, 3, ..] => {
            return Some("it answered in TLS: this port wants an encrypted connection".to_owned());
        }
        [b'H', b'T', b'T', b'P', b'/', version @ ..] => {
            let version =
                version.split(|octet| !matches!(octet, b'0'..=b'9' | b'.')).next().unwrap_or_default();
            format!("in HTTP/{}", shown(&version[..version.len().min(3)]))
        }
        [b'S', b'S', b'H', b'-', ..] => "in SSH".to_owned(),
        // To a version that they do not know, some answer without a status line.
        [b'<', ..] => "in HTML, as servers of HTTP/1 do".to_owned(),
        _ => {
            let line = first.split(|octet| *octet == b'\r' || *octet == b'\n').next().unwrap_or_default();
            let line = &line[..line.len().min(SHOWN_BYTES_MAX)];
            format!("`{}`, which is not HTTP/2", shown(line))
        }
    };
    Some(format!("it answered {protocol}: is this a gRPC port?"))
}

fn shown(text: &[u8]) -> String {
    text.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_protocol_is_recognized_by_answer() {
        for (answer, expected) in [
            (&b"HTTP/1.1 405 Method Not Allowed\r\n"[..], "it answered in HTTP/1.1: is this a gRPC port?"),
            (b"HTTP/1.0 400", "it answered in HTTP/1.0: is this a gRPC port?"),
            (b"HTTP/", "it answered in HTTP/: is this a gRPC port?"),
            (b"\x15\x03\x01\0\x02\x02\x46", "it answered in TLS: this port wants an encrypted connection"),
            (
                b"<!DOCTYPE HTML>\n<html>",
                "it answered in HTML, as servers of HTTP/1 do: is this a gRPC port?",
            ),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "it answered in SSH: is this a gRPC port?"),
            (
                b"-ERR unknown\r\nmore",
                "it answered `-ERR unknown`, which is not HTTP/2: is this a gRPC port?",
            ),
            (
                b"\xff\xfb\x01`\x1b[2J",
                "it answered `\\xff\\xfb\\x01`\\x1b[2J`, which is not HTTP/2: is this a gRPC port?",
            ),
        ] {
            assert_eq!(complaint(answer).as_deref(), Some(expected));
        }
        // Frames, and what may still become one.
        for fine in [&b"\0\0\0\x04\0\0\0\0\0"[..], b"\0\x40\0\x04\0", b"\0\xff\xff\x04\0", b"HTTP", b""] {
            assert_eq!(complaint(fine), None, "{fine:?}");
        }
    }
}
