//! Finds the slot of a Cluster that a command belongs to: CRC16 (XMODEM) of the key or its hash tag, as in the Redis Cluster
//! specification.

use redis::{Arg, Cmd, Pipeline};

pub(crate) const SLOTS: u16 = 16_384;

/// The suffix of a key that never exists.
const ABSENT: &[u8] = b":shoal:absent";

/// Returns the slot of a key.
pub(crate) fn of_key(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS
}

/// Returns the slot of a command's first key; `None` if the command has no key.
pub(crate) fn of_command(command: &Cmd) -> Option<u16> {
    first_key(command).map(of_key)
}

/// Returns a key that never exists, in the slot of a command's first key; `None` if that key has no hash tag.
pub(crate) fn absent_key(command: &Cmd) -> Option<Vec<u8>> {
    let key = first_key(command)?;
    // Behind a tag the rest of a key says nothing of its slot, and its beginning may be all that the user is permitted.
    hash_tag(key).map(|_| [key, ABSENT].concat())
}

fn first_key(command: &Cmd) -> Option<&[u8]> {
    let argument = |index: usize| match command.args_iter().nth(index) {
        Some(Arg::Simple(bytes)) => Some(bytes),
        _ => None,
    };
    let name = argument(0)?.to_ascii_uppercase();
    match name.as_slice() {
        b"PING" | b"INFO" | b"TIME" | b"ECHO" | b"SCRIPT" | b"CONFIG" | b"CLIENT" | b"CLUSTER"
        | b"COMMAND" | b"PUBLISH" | b"PUBSUB" | b"WAIT" | b"FLUSHALL" | b"FLUSHDB" | b"DBSIZE" | b"KEYS"
        | b"SCAN" | b"ACL" | b"LATENCY" | b"SLOWLOG" | b"FUNCTION" | b"RANDOMKEY" | b"ASKING"
        | b"READONLY" | b"LASTSAVE" => None,
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" | b"BLMPOP"
        | b"BZMPOP" => {
            if argument(2)? == b"0" {
                return None;
            }
            argument(3)
        }
        b"LMPOP" | b"ZMPOP" | b"SINTERCARD" | b"ZINTERCARD" | b"ZDIFF" | b"ZINTER" | b"ZUNION" | b"BITOP"
        | b"XINFO" | b"XGROUP" | b"OBJECT" | b"MEMORY" => argument(2),
        b"XREAD" | b"XREADGROUP" => {
            let streams = |argument: &Arg<&[u8]>| matches!(argument, Arg::Simple(bytes) if bytes.eq_ignore_ascii_case(b"STREAMS"));
            argument(command.args_iter().position(|argument| streams(&argument))? + 1)
        }
        _ => argument(1),
    }
}

/// Returns whether a command runs a script or a function, which may touch keys that it does not name.
pub(crate) fn runs_code(command: &Cmd) -> bool {
    let Some(Arg::Simple(name)) = command.args_iter().next() else { return false };
    let begins = |word: &[u8]| name.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    begins(b"EVAL") || begins(b"FCALL")
}

/// Returns the slot of a pipeline: all its keys must have the same one, so the first key decides.
pub(crate) fn of_pipeline(pipeline: &Pipeline) -> Option<u16> {
    pipeline.cmd_iter().find_map(of_command)
}

/// Returns the text between the first `{` and the next `}`, unless it is empty.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let rest = &key[key.iter().position(|byte| *byte == b'{')? + 1..];
    let tag = &rest[..rest.iter().position(|byte| *byte == b'}')?];
    (!tag.is_empty()).then_some(tag)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the specification's example");
        assert_eq!(of_key(b"foo"), 12_182);
        assert_eq!(of_key(b"{user1000}.following"), of_key(b"{user1000}.followers"));
        assert_eq!(of_key(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS, "an empty tag is none");
        assert_eq!(of_key(b"foo{{bar}}zap"), of_key(b"{bar"));
        assert_eq!(of_key(b"foo{bar}{zap}"), of_key(b"bar"));
        assert_eq!(of_key(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn absent_key_shares_the_slot() {
        let get = |key: &str| absent_key(redis::cmd("GET").arg(key));
        for key in ["session:{b07}:", "{queue}:jobs:{x}", "a{b}c"] {
            let absent = get(key).expect("it has a tag");
            assert_eq!(of_key(&absent), of_key(key.as_bytes()), "{key}");
        }
        assert_eq!(get("plain"), None);
    }

    #[test]
    fn commands_route_by_first_key() {
        let slot = |words: &str| {
            let mut words = words.split(' ');
            let mut command = redis::cmd(words.next().unwrap());
            words.for_each(|word| {
                command.arg(word);
            });
            of_command(&command)
        };
        let foo = Some(of_key(b"foo"));
        for command in [
            "GET foo",
            "set foo bar",
            "EVALSHA abc 2 foo bar baz",
            "XREAD COUNT 1 BLOCK 0 streams foo 0",
            "XREADGROUP GROUP g c STREAMS foo >",
            "XINFO STREAM foo",
            "OBJECT ENCODING foo",
            "ZINTERCARD 2 foo bar",
            "BITOP AND foo bar",
        ] {
            assert_eq!(slot(command), foo, "{command}");
        }
        for command in
            ["PING", "EVALSHA abc 0 foo", "SCRIPT LOAD foo", "PUBLISH foo bar", "INFO server", "XREAD"]
        {
            assert_eq!(slot(command), None, "{command}");
        }
    }
}
