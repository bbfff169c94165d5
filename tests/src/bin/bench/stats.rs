//! Medians and how far the values lie apart.

use std::time::Duration;

use serde::Serialize;

/// Values of several rounds, and what they say together.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Spread {
    /// The middle value.
    pub(crate) median: f64,
    /// The first and the third quartile: half of the values lie between them.
    pub(crate) quartiles: [f64; 2],
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
    /// All, in the order of the rounds.
    pub(crate) values: Vec<f64>,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: quantile(&sorted, 0.5),
            quartiles: [quantile(&sorted, 0.25), quantile(&sorted, 0.75)],
            min: sorted[0],
            max: sorted[sorted.len() - 1],
            values,
        }
    }

    /// Median and quartiles in `unit`s, for people.
    pub(crate) fn show(&self, unit: f64, digits: usize) -> String {
        let [first, third] = self.quartiles.map(|value| value / unit);
        let median = self.median / unit;
        format!("{median:.digits$} ({first:.digits$} to {third:.digits$})")
    }
}

/// The value below which this share lies, between two values where it must be.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor(), place.ceil());
    let value = |place: f64| sorted[place as usize];
    value(below) + (value(above) - value(below)) * (place - below)
}

/// The least of the values that are not exceeded by `percent` of all; zero of none.
pub(crate) fn percentile(mut values: Vec<Duration>, percent: usize) -> Duration {
    values.sort_unstable();
    let at = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        let odd = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(odd.values, [3.0, 1.0, 2.0]);
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]).median, 2.5);
        assert_eq!(Spread::of([7.0]).median, 7.0);
    }

    #[test]
    fn half_of_the_values_lie_between_the_quartiles() {
        assert_eq!(Spread::of([5.0, 1.0, 2.0, 4.0, 3.0]).quartiles, [2.0, 4.0]);
        assert_eq!(Spread::of([1.0, 2.0]).quartiles, [1.25, 1.75]);
        assert_eq!(Spread::of([7.0]).quartiles, [7.0, 7.0]);
    }
}
