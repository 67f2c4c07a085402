//! Limits the number of elements of a message, counted in the received bytes before any of them is decoded: an empty element
//! takes two bytes there, and a hundred in memory.

/// The fields of a message that count. The build writes a shape for each message.
#[derive(Debug)]
pub struct Shape {
    /// Numbers of its lists and maps.
    pub lists: &'static [u32],
    /// Its fields that are messages, lists and maps of them included.
    pub messages: &'static [(u32, &'static Shape)],
}

/// A message that is encoded and decoded here.
pub trait Shaped {
    /// The shape of a request; none for an answer, which comes from a service that is trusted.
    const SHAPE: Option<&'static Shape>;
}

/// Most elements of one list or map of a request; no service takes as many.
pub const LIST_ELEMENTS_MAX: usize = 1_000;
/// Most fields of a request, those of the messages in it included: more than the fullest Mutate has.
pub const FIELDS_MAX: usize = 1 << 17;
/// Lists of one message.
const LISTS_MAX: usize = 4;
/// Messages within messages; ours have five.
const DEPTH_MAX: usize = 16;

/// A request with too many elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// A list or map has more than [`LIST_ELEMENTS_MAX`].
    Elements,
    /// There are more than [`FIELDS_MAX`] in all.
    Fields,
}

/// Counts; what is malformed is left for the decoder to refuse.
///
/// # Errors
/// When there are too many.
pub fn check(shape: &Shape, message: &[u8]) -> Result<(), TooMany> {
    let mut left = FIELDS_MAX;
    count(shape, message, &mut left, DEPTH_MAX)
}

fn count(shape: &Shape, mut rest: &[u8], left: &mut usize, depth: usize) -> Result<(), TooMany> {
    let mut elements = [0; LISTS_MAX];
    while let Some(tag) = varint(&mut rest) {
        *left = left.checked_sub(1).ok_or(TooMany::Fields)?;
        let number = (tag >> 3) as u32;
        if let Some(list) = shape.lists.iter().position(|list| *list == number).filter(|at| *at < LISTS_MAX) {
            elements[list] += 1;
            if elements[list] > LIST_ELEMENTS_MAX {
                return Err(TooMany::Elements);
            }
        }
        let skipped = match tag & 7 {
            0 => varint(&mut rest).map(|_| 0),
            1 => Some(8),
            5 => Some(4),
            2 => {
                let Some(size) = varint(&mut rest).and_then(|size| usize::try_from(size).ok()) else { break };
                let Some(content) = rest.get(..size) else { break };
                let inner = shape.messages.iter().find(|(of, _)| *of == number);
                if let (Some((_, inner)), Some(depth)) = (inner, depth.checked_sub(1)) {
                    count(inner, content, left, depth)?;
                }
                Some(size)
            }
            // A group's fields are counted as if they stood outside it.
            3 | 4 => Some(0),
            _ => None,
        };
        let Some(after) = skipped.and_then(|skipped| rest.get(skipped..)) else { break };
        rest = after;
    }
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::data::v1 as data;
    use crate::jobs::v1 as jobs;
    use crate::session::v1 as session;
    use crate::r#type::v1::{Value, value::Kind};

    fn check_of<M: Shaped>(message: &[u8]) -> Result<(), TooMany> {
        check(M::SHAPE.expect("a request"), message)
    }

    fn mutate(mutations: usize, attributes: usize) -> Vec<u8> {
        let value = Value { kind: Some(Kind::TimeValue(prost_types::Timestamp { seconds: 1, nanos: 1 })) };
        let put = data::mutation::Put {
            sort_key: Some(value.clone()),
            attributes: (0..attributes).map(|i| (format!("a{i}"), value.clone())).collect(),
            ttl: Some(prost_types::Duration { seconds: 1, nanos: 1 }),
        };
        let mutation = data::Mutation { kind: Some(data::mutation::Kind::Put(put)) };
        data::MutateRequest { mutations: vec![mutation; mutations], ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn empty_elements_are_refused_everywhere() {
        let empty = |number: u8, times: usize| [number << 3 | 2, 0].repeat(times);
        let over = LIST_ELEMENTS_MAX + 1;
        for (told, expected) in [
            (check_of::<jobs::BatchEnqueueRequest>(&empty(1, over)), Err(TooMany::Elements)),
            (check_of::<jobs::BatchEnqueueRequest>(&empty(1, over - 1)), Ok(())),
            (check_of::<data::MutateRequest>(&empty(3, over)), Err(TooMany::Elements)),
            (check_of::<data::BatchGetRequest>(&empty(2, over)), Err(TooMany::Elements)),
            (check_of::<session::UpdateSessionRequest>(&empty(3, over)), Err(TooMany::Elements)),
            (check_of::<session::CreateSessionRequest>(&empty(2, over)), Err(TooMany::Elements)),
            (check_of::<crate::cache::v1::SetRequest>(&empty(5, over)), Err(TooMany::Elements)),
            (check_of::<data::MutateRequest>(&mutate(1, over)), Err(TooMany::Elements)),
            (check_of::<data::MutateRequest>(&mutate(100, 400)), Err(TooMany::Fields)),
            // One field that is no list, or none that there is, again and again.
            (check_of::<jobs::EnqueueRequest>(&empty(5, FIELDS_MAX + 1)), Err(TooMany::Fields)),
            (check_of::<jobs::EnqueueRequest>(&empty(15, FIELDS_MAX + 1)), Err(TooMany::Fields)),
        ] {
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn a_group_hides_no_elements() {
        let group =
            [[15 << 3 | 3, 15 << 3 | 4].as_slice(), &[1 << 3 | 2, 0].repeat(LIST_ELEMENTS_MAX + 1)].concat();
        assert_eq!(check_of::<jobs::BatchEnqueueRequest>(&group), Err(TooMany::Elements));
    }

    #[test]
    fn the_fullest_requests_are_taken() {
        assert_eq!(check_of::<data::MutateRequest>(&mutate(100, 256)), Ok(()));
        // Opaque bytes are not looked into.
        let job = jobs::EnqueueRequest { payload: [10, 0].repeat(128 << 10).into(), ..Default::default() };
        let batch = jobs::BatchEnqueueRequest { requests: vec![job; 12] }.encode_to_vec();
        assert_eq!(check_of::<jobs::BatchEnqueueRequest>(&batch), Ok(()));
    }

    #[test]
    fn malformed_bytes_are_left_to_decoder() {
        for bytes in [&[10][..], &[10, 200], &[0xff; 12], &[15], &[9, 1], &[8]] {
            assert_eq!(check_of::<jobs::BatchEnqueueRequest>(bytes), Ok(()), "{bytes:?}");
        }
    }
}
