//! Bounded non-linear least squares for the law's three parameters: Levenberg–Marquardt steps, projected onto the bounds, from
//! several starts. Knows nothing of repetitions and intervals.

use serde::{Deserialize, Serialize};

use crate::scale::usl::model::Usl;

/// Bounds of α and β. γ has none but that it is positive, which follows from positive throughput.
const TERM_MAX: f64 = 1.0;
/// Points without which three parameters have no standard error.
pub(crate) const POINTS_MIN: usize = 4;
/// Steps from one start, of which some dozens are used.
const STEPS_MAX: usize = 500;
/// Relative improvement of the sum of squares below which a start has converged.
const TOLERANCE: f64 = 1e-14;
/// Starts for (α, β): linear, contended, and incoherent at small and at large N.
const STARTS: [(f64, f64); 5] = [(0.0, 0.0), (0.05, 0.0), (0.5, 0.0), (0.02, 1e-4), (0.02, 1e-2)];

/// Point that the law is fitted to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) n: f64,
    pub(crate) throughput: f64,
    /// Number of measurements that it stands for: the mean of repetitions fits as they all would.
    pub(crate) weight: f64,
}

/// Result of a fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fit {
    pub(crate) usl: Usl,
    /// Standard errors of γ, α and β. A term at its bound has none: there the sum of squares does not bend about it.
    pub(crate) standard_errors: [Option<f64>; 3],
    /// Square root of the mean square of what the law leaves unexplained, in the unit of the throughput.
    pub(crate) residual_error: f64,
    /// Share of the throughput's variance that the law explains.
    pub(crate) r_squared: f64,
}

/// Reasons why points cannot be fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum FitError {
    #[error("{points} points at {levels} values of N: the fit of three terms needs {POINTS_MIN} points at 3")]
    TooFewPoints { points: usize, levels: usize },
    #[error("N = {n} with throughput {throughput}: N must be at least 1, and both finite and positive")]
    BadPoint { n: f64, throughput: f64 },
}

/// Fits the law.
///
/// # Errors
/// With fewer than four points or three values of N, or with one that is not positive.
pub(crate) fn fit(points: &[Point]) -> Result<Fit, FitError> {
    check(points)?;
    let usl = least_squares(points, &STARTS);
    let squares = sum_of_squares(&usl, points);
    let mean = points.iter().map(|point| point.throughput).sum::<f64>() / points.len() as f64;
    let total: f64 = points.iter().map(|point| (point.throughput - mean).powi(2)).sum();
    let free = 3 - [usl.alpha, usl.beta].into_iter().filter(|term| at_bound(*term)).count();
    let freedom = (points.len() - free) as f64;
    Ok(Fit {
        usl,
        standard_errors: standard_errors(&usl, points, squares / freedom),
        residual_error: (squares / freedom).sqrt(),
        r_squared: if total > 0.0 { 1.0 - squares / total } else { 1.0 },
    })
}

fn check(points: &[Point]) -> Result<(), FitError> {
    let bad = |point: &&Point| {
        !(point.n.is_finite() && point.throughput.is_finite() && point.n >= 1.0 && point.throughput > 0.0)
    };
    if let Some(&Point { n, throughput, .. }) = points.iter().find(bad) {
        return Err(FitError::BadPoint { n, throughput });
    }
    let mut levels: Vec<f64> = points.iter().map(|point| point.n).collect();
    levels.sort_by(f64::total_cmp);
    levels.dedup();
    if points.len() < POINTS_MIN || levels.len() < 3 {
        return Err(FitError::TooFewPoints { points: points.len(), levels: levels.len() });
    }
    Ok(())
}

/// Returns the best parameters for points that were checked.
pub(crate) fn least_squares(points: &[Point], starts: &[(f64, f64)]) -> Usl {
    // In units of the throughput of one, all parameters are of the order of one and of nought.
    let unit = points.iter().map(|point| point.throughput / point.n).fold(0.0, f64::max);
    let scaled: Vec<Point> =
        points.iter().map(|point| Point { throughput: point.throughput / unit, ..*point }).collect();
    let best = starts
        .iter()
        .map(|&(alpha, beta)| descend(Usl { gamma: 1.0, alpha, beta }, &scaled))
        .min_by(|(_, a), (_, b)| a.total_cmp(b));
    let (usl, _) = best.unwrap_or((Usl { gamma: 1.0, alpha: 0.0, beta: 0.0 }, 0.0));
    Usl { gamma: usl.gamma * unit, ..usl }
}

/// Descends from a start to a minimum within the bounds. Returns it with its sum of squares.
fn descend(start: Usl, points: &[Point]) -> (Usl, f64) {
    let mut usl = start;
    let mut squares = sum_of_squares(&usl, points);
    let mut damping = 1e-3;
    for _ in 0..STEPS_MAX {
        let (curvature, slope) = normal_equations(&usl, points);
        let pinned = pinned(&usl, slope);
        let mut damped = curvature;
        for (k, row) in damped.iter_mut().enumerate() {
            row[k] += damping * row[k].max(1e-12);
        }
        let step = solve(damped, slope, pinned).unwrap_or([0.0; 3]);
        let next = Usl {
            gamma: (usl.gamma + step[0]).max(f64::MIN_POSITIVE),
            alpha: (usl.alpha + step[1]).clamp(0.0, TERM_MAX),
            beta: (usl.beta + step[2]).clamp(0.0, TERM_MAX),
        };
        let next_squares = sum_of_squares(&next, points);
        if next_squares < squares {
            let converged = squares - next_squares <= TOLERANCE * squares;
            (usl, squares) = (next, next_squares);
            damping = (damping / 10.0).max(1e-12);
            if converged {
                break;
            }
        } else {
            damping *= 10.0;
            if damping > 1e12 {
                break;
            }
        }
    }
    (usl, squares)
}

/// Returns which parameters are at a bound that the next step would leave.
fn pinned(usl: &Usl, slope: [f64; 3]) -> [bool; 3] {
    let at = |value: f64, slope: f64| (value <= 0.0 && slope <= 0.0) || (value >= TERM_MAX && slope >= 0.0);
    [false, at(usl.alpha, slope[1]), at(usl.beta, slope[2])]
}

/// Returns JᵀJ and Jᵀr, in which r is measured − predicted.
fn normal_equations(usl: &Usl, points: &[Point]) -> ([[f64; 3]; 3], [f64; 3]) {
    let (mut curvature, mut slope) = ([[0.0; 3]; 3], [0.0; 3]);
    for point in points {
        let gradient = usl.gradient(point.n);
        let residual = point.throughput - usl.throughput(point.n);
        for i in 0..3 {
            slope[i] += point.weight * gradient[i] * residual;
            for j in 0..3 {
                curvature[i][j] += point.weight * gradient[i] * gradient[j];
            }
        }
    }
    (curvature, slope)
}

/// Returns whether a term is at a bound, where it is no free parameter.
fn at_bound(term: f64) -> bool {
    term <= 0.0 || term >= TERM_MAX
}

fn sum_of_squares(usl: &Usl, points: &[Point]) -> f64 {
    points.iter().map(|point| point.weight * (point.throughput - usl.throughput(point.n)).powi(2)).sum()
}

/// Solves the equations for the parameters that are not pinned, by Gauss's elimination with pivots. The others get 0.
fn solve(mut matrix: [[f64; 3]; 3], mut right: [f64; 3], pinned: [bool; 3]) -> Option<[f64; 3]> {
    for k in (0..3).filter(|k| pinned[*k]) {
        matrix[k] = [0.0; 3];
        matrix.iter_mut().for_each(|row| row[k] = 0.0);
        (matrix[k][k], right[k]) = (1.0, 0.0);
    }
    for column in 0..3 {
        let pivot =
            (column..3).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))?;
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let pivots = matrix[column];
        if pivots[column].abs() < f64::MIN_POSITIVE {
            return None;
        }
        for row in column + 1..3 {
            let factor = matrix[row][column] / pivots[column];
            matrix[row].iter_mut().zip(pivots).for_each(|(value, pivot)| *value -= factor * pivot);
            right[row] -= factor * right[column];
        }
    }
    let mut solution = [0.0; 3];
    for row in (0..3).rev() {
        let known: f64 = (row + 1..3).map(|k| matrix[row][k] * solution[k]).sum();
        solution[row] = (right[row] - known) / matrix[row][row];
    }
    solution.iter().all(|value| value.is_finite()).then_some(solution)
}

/// Returns the square roots of the diagonal of s²(JᵀJ)⁻¹, over the parameters that are not at a bound.
fn standard_errors(usl: &Usl, points: &[Point], variance: f64) -> [Option<f64>; 3] {
    let (curvature, _) = normal_equations(usl, points);
    let pinned = [false, at_bound(usl.alpha), at_bound(usl.beta)];
    let mut errors = [None; 3];
    for k in (0..3).filter(|k| !pinned[*k]) {
        let mut unit = [0.0; 3];
        unit[k] = 1.0;
        errors[k] = solve(curvature, unit, pinned).map(|column| (variance * column[k]).sqrt());
    }
    errors.map(|error| error.filter(|error| error.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde::Deserialize;

    /// Output of `scripts/usl-by-scipy`.
    const BY_SCIPY: &str = include_str!("by_scipy.json");

    #[derive(Deserialize)]
    struct Peer {
        table: String,
        n: Vec<f64>,
        throughput: Vec<f64>,
        gamma: f64,
        alpha: f64,
        beta: f64,
        standard_errors: [Option<f64>; 3],
        sum_of_squares: f64,
    }

    #[test]
    fn fit_agrees_with_scipy_on_public_tables() {
        let peers: Vec<Peer> = serde_json::from_str(BY_SCIPY).expect("the file of the script");
        assert_eq!(peers.len(), 2);
        for peer in peers {
            let pairs = peer.n.iter().zip(&peer.throughput);
            let points: Vec<Point> =
                pairs.map(|(&n, &throughput)| Point { n, throughput, weight: 1.0 }).collect();
            let ours = fit(&points).expect("fitted");
            let near = |ours: f64, theirs: f64| (ours - theirs).abs() <= 1e-5 * theirs.abs() + 1e-9;
            let pairs = [
                (ours.usl.gamma, peer.gamma),
                (ours.usl.alpha, peer.alpha),
                (ours.usl.beta, peer.beta),
                (sum_of_squares(&ours.usl, &points), peer.sum_of_squares),
            ];
            for (ours, theirs) in pairs {
                assert!(near(ours, theirs), "{}: {ours}, SciPy {theirs}", peer.table);
            }
            for (ours, theirs) in ours.standard_errors.into_iter().zip(peer.standard_errors) {
                assert_eq!(ours.is_some(), theirs.is_some(), "{}", peer.table);
                let (ours, theirs) = (ours.unwrap_or(0.0), theirs.unwrap_or(0.0));
                assert!((ours - theirs).abs() <= 1e-3 * theirs, "{}: {ours}, SciPy {theirs}", peer.table);
            }
        }
    }

    fn points(usl: Usl, levels: &[f64]) -> Vec<Point> {
        levels.iter().map(|&n| Point { n, throughput: usl.throughput(n), weight: 1.0 }).collect()
    }

    #[test]
    fn exact_points_return_their_parameters() {
        for (alpha, beta) in [(0.0, 0.0), (0.1, 0.0), (0.0, 0.004), (0.05, 0.001), (1.0, 0.0), (0.9, 0.3)] {
            let usl = Usl { gamma: 950.0, alpha, beta };
            let found = fit(&points(usl, &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0])).expect("fitted").usl;
            assert!((found.gamma / usl.gamma - 1.0).abs() < 1e-5, "{found:?} {usl:?}");
            assert!((found.alpha - alpha).abs() < 1e-5, "{found:?} {usl:?}");
            assert!((found.beta - beta).abs() < 1e-5, "{found:?} {usl:?}");
        }
    }

    #[test]
    fn efficiency_above_one_stays_within_bounds() {
        let usl = Usl { gamma: 10.0, alpha: -0.02, beta: 0.0 };
        let fit = fit(&points(usl, &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0])).expect("fitted");
        assert_eq!((fit.usl.alpha, fit.usl.beta), (0.0, 0.0));
        assert_eq!((fit.standard_errors[1], fit.standard_errors[2]), (None, None));
        assert!(fit.standard_errors[0].is_some());
    }

    #[test]
    fn unusable_points_are_refused() {
        let point = |n, throughput| Point { n, throughput, weight: 1.0 };
        let two = [point(1.0, 1.0), point(1.0, 1.1), point(2.0, 2.0), point(2.0, 2.1)];
        assert_eq!(fit(&two), Err(FitError::TooFewPoints { points: 4, levels: 2 }));
        let mut bad = points(Usl { gamma: 1.0, alpha: 0.0, beta: 0.0 }, &[1.0, 2.0, 3.0]);
        bad.push(point(4.0, 0.0));
        assert_eq!(fit(&bad), Err(FitError::BadPoint { n: 4.0, throughput: 0.0 }));
        bad[3] = point(4.0, f64::NAN);
        assert!(matches!(fit(&bad), Err(FitError::BadPoint { .. })));
    }
}
