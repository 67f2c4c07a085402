//! The Universal Scalability Law as a function: its value, its gradient, and what follows from its terms. Fits nothing.

use serde::{Deserialize, Serialize};

/// Parameters of X(N) = γN / (1 + α(N−1) + βN(N−1)).
///
/// Source: N. J. Gunther, "Guerrilla Capacity Planning", 2007, chapter 4; the three-parameter form is of "A General Theory of
/// Computational Scalability Based on Rational Functions", 2008.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usl {
    /// Throughput of one (γ), in the unit of the measured throughput.
    pub(crate) gamma: f64,
    /// Contention (α): the share of the work that waits its turn.
    pub(crate) alpha: f64,
    /// Coherence (β): the cost for each pair that has to agree.
    pub(crate) beta: f64,
}

impl Usl {
    /// Returns the throughput at `n`.
    pub(crate) fn throughput(&self, n: f64) -> f64 {
        self.gamma * n * self.efficiency(n)
    }

    /// Returns the share of linear throughput that is reached at `n`.
    pub(crate) fn efficiency(&self, n: f64) -> f64 {
        1.0 / self.denominator(n)
    }

    /// Returns ∂X/∂γ, ∂X/∂α and ∂X/∂β at `n`.
    pub(crate) fn gradient(&self, n: f64) -> [f64; 3] {
        let denominator = self.denominator(n);
        let shrink = -self.gamma * n / (denominator * denominator);
        [n / denominator, shrink * (n - 1.0), shrink * n * (n - 1.0)]
    }

    /// Returns the `n` of the highest throughput: none without coherence, which alone makes throughput fall again.
    pub(crate) fn peak(&self) -> Option<f64> {
        (self.beta > 0.0).then(|| ((1.0 - self.alpha).max(0.0) / self.beta).sqrt().max(1.0))
    }

    fn denominator(&self, n: f64) -> f64 {
        1.0 + self.alpha * (n - 1.0) + self.beta * n * (n - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradient_agrees_with_small_steps() {
        let usl = Usl { gamma: 20.0, alpha: 0.05, beta: 0.001 };
        for n in [1.0, 4.0, 64.0] {
            let numeric = |change: &dyn Fn(&mut Usl, f64)| {
                let (mut up, mut down) = (usl, usl);
                change(&mut up, 1e-6);
                change(&mut down, -1e-6);
                (up.throughput(n) - down.throughput(n)) / 2e-6
            };
            let numeric = [
                numeric(&|usl, step| usl.gamma += step),
                numeric(&|usl, step| usl.alpha += step),
                numeric(&|usl, step| usl.beta += step),
            ];
            for (exact, numeric) in usl.gradient(n).into_iter().zip(numeric) {
                assert!((exact - numeric).abs() <= 1e-4 * exact.abs().max(1.0), "{exact} {numeric} at {n}");
            }
        }
    }

    #[test]
    fn coherence_alone_makes_a_peak() {
        assert_eq!(Usl { gamma: 1.0, alpha: 0.1, beta: 0.0 }.peak(), None);
        let usl = Usl { gamma: 1.0, alpha: 0.02, beta: 0.0005 };
        let peak = usl.peak().expect("a peak");
        assert!(usl.throughput(peak) > usl.throughput(peak - 1.0));
        assert!(usl.throughput(peak) > usl.throughput(peak + 1.0));
    }
}
