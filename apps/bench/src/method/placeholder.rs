//! Placeholders of a request's template: their text, and the value that each call gets.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};

use crate::load::target::Draw;

/// Ranks of a Zipf distribution, whose sums are kept in memory.
const ZIPF_RANKS_MAX: usize = 1_000_000;

/// Lines of a file that `{{line}}` takes, and their length together.
const LINES_MAX: usize = 1_000_000;
const LINES_BYTES_MAX: u64 = 256 << 20;

/// Source of a value that differs from call to call.
#[derive(Debug, Clone)]
pub(super) enum Placeholder {
    /// `{{uuid}}`: a UUID of version 4, which no other call of the run has.
    Uuid,
    /// `{{seq}}`: the number of the call, from 0.
    Seq,
    /// `{{zipf:N:S}}`: a number from 1 to N; rank k comes up in proportion to 1 / k^S.
    Zipf(Zipf),
    /// `{{line:FILE}}`: a line of a file; the first call gets the first, and after the last comes the first again.
    Line(Arc<[String]>),
}

/// Sums of the weights of the ranks of a Zipf distribution.
#[derive(Debug, Clone)]
pub(super) struct Zipf(Arc<[f64]>);

impl Placeholder {
    /// Parses the text between the braces.
    ///
    /// # Errors
    /// When there is no such placeholder, its arguments are wrong, or its file cannot be read.
    pub(super) fn parse(text: &str) -> anyhow::Result<Placeholder> {
        let (name, arguments) = text.trim().split_once(':').unwrap_or((text.trim(), ""));
        match (name, arguments) {
            ("uuid", "") => Ok(Placeholder::Uuid),
            ("seq", "") => Ok(Placeholder::Seq),
            ("uuid" | "seq", _) => bail!("{{{{{name}}}}} takes no arguments"),
            ("zipf", _) => Ok(Placeholder::Zipf(Zipf::parse(arguments)?)),
            ("line", "") => bail!("{{{{line:FILE}}}} needs the name of a file"),
            ("line", file) => Ok(Placeholder::Line(lines(Path::new(file))?)),
            _ => bail!(
                "there is no placeholder {{{{{name}}}}}; there are {{{{uuid}}}}, {{{{seq}}}}, {{{{zipf:N:S}}}} and {{{{line:FILE}}}}"
            ),
        }
    }

    /// Appends the value for a call. `nth`: the placeholder's place in its template.
    pub(super) fn write(&self, nth: usize, draw: &mut Draw, out: &mut String) {
        // A String takes everything.
        let _ = match self {
            Placeholder::Uuid => write_uuid(draw, nth, out),
            Placeholder::Seq => write!(out, "{}", draw.number),
            Placeholder::Zipf(zipf) => write!(out, "{}", zipf.rank(draw.rng.f64())),
            Placeholder::Line(lines) => {
                let line = usize::try_from(draw.number).unwrap_or(usize::MAX) % lines.len();
                out.push_str(&lines[line]);
                Ok(())
            }
        };
    }
}

/// A UUID made of the run's seed and the call's number: the same for the same call, and for no other.
fn write_uuid(draw: &Draw, nth: usize, out: &mut String) -> std::fmt::Result {
    let high = mixed(draw.seed ^ mixed(draw.number));
    let low = mixed(high ^ mixed(draw.number.wrapping_add((nth as u64) << 48)));
    let bits = (u128::from(high) << 64) | u128::from(low);
    // Version 4, variant 1.
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    write!(out, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators"): a bijection.
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl Zipf {
    /// Parses `N:S`, or `N` for an exponent of 1.
    fn parse(text: &str) -> anyhow::Result<Zipf> {
        let (ranks, exponent) = text.split_once(':').unwrap_or((text, "1"));
        let ranks: usize =
            ranks.trim().parse().ok().filter(|n| (1..=ZIPF_RANKS_MAX).contains(n)).with_context(|| {
                format!("{{{{zipf:N:S}}}}: N must be from 1 to {ZIPF_RANKS_MAX}, not `{ranks}`")
            })?;
        let exponent: f64 =
            exponent.trim().parse().ok().filter(|s: &f64| (0.0..=10.0).contains(s)).with_context(|| {
                format!("{{{{zipf:N:S}}}}: S must be from 0 (all alike) to 10, not `{exponent}`")
            })?;
        let mut sum = 0.0;
        let sums = (1..=ranks).map(|k| {
            sum += (k as f64).powf(-exponent);
            sum
        });
        Ok(Zipf(sums.collect()))
    }

    /// Returns the rank, from 1, at a place from 0 to 1 of the distribution.
    fn rank(&self, place: f64) -> usize {
        let wanted = place * self.0.last().copied().unwrap_or(1.0);
        (self.0.partition_point(|sum| *sum <= wanted) + 1).min(self.0.len())
    }
}

fn lines(file: &Path) -> anyhow::Result<Arc<[String]>> {
    let named = || format!("{{{{line:{}}}}}", file.display());
    let bytes = std::fs::metadata(file).with_context(named)?.len();
    ensure!(bytes <= LINES_BYTES_MAX, "{}: more than {} MiB", named(), LINES_BYTES_MAX >> 20);
    let text = std::fs::read_to_string(file).with_context(named)?;
    let lines: Arc<[String]> = text.lines().map(str::to_owned).collect();
    ensure!(!lines.is_empty(), "{}: the file is empty", named());
    ensure!(lines.len() <= LINES_MAX, "{}: more than {LINES_MAX} lines", named());
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    use fastrand::Rng;

    fn draw(number: u64) -> Draw {
        Draw { seed: 1, rng: Rng::with_seed(1), number }
    }

    fn value(text: &str, number: u64) -> String {
        let mut out = String::new();
        Placeholder::parse(text).expect("a placeholder").write(0, &mut draw(number), &mut out);
        out
    }

    #[test]
    fn uuids_differ_between_calls() {
        let uuid = value("uuid", 7);
        assert_eq!(uuid, value(" uuid ", 7));
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
        let all: std::collections::HashSet<String> = (0..10_000).map(|n| value("uuid", n)).collect();
        assert_eq!(all.len(), 10_000);
    }

    #[test]
    fn zipf_ranks_come_by_weight() {
        let zipf = Zipf::parse("3:1").expect("valid");
        let mut rng = Rng::with_seed(1);
        let mut counts = [0; 3];
        for _ in 0..11_000 {
            counts[zipf.rank(rng.f64()) - 1] += 1;
        }
        // 1 : 1/2 : 1/3, so 6000, 3000 and 2000.
        for (count, expected) in counts.iter().zip([6_000_i32, 3_000, 2_000]) {
            assert!((count - expected).abs() < 250, "{counts:?}");
        }
        assert_eq!((zipf.rank(0.0), zipf.rank(1.0)), (1, 3));
    }

    #[test]
    fn lines_come_in_turn() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "a\nb\n").expect("written");
        let name = format!("line:{}", file.path().display());
        assert_eq!([value(&name, 0), value(&name, 1), value(&name, 2)], ["a", "b", "a"]);
    }

    #[test]
    fn wrong_placeholders_are_explained() {
        let error = |text| format!("{:#}", Placeholder::parse(text).expect_err("wrong"));
        assert!(error("uid").contains("there are {{uuid}}, {{seq}}, {{zipf:N:S}} and {{line:FILE}}"));
        assert!(error("zipf:0").contains("N must be from 1 to 1000000, not `0`"));
        assert!(error("zipf:5:x").contains("S must be from 0 (all alike) to 10, not `x`"));
        assert!(error("seq:4").contains("{{seq}} takes no arguments"));
        assert!(error("line:/nowhere").contains("{{line:/nowhere}}: No such file"));
    }
}
