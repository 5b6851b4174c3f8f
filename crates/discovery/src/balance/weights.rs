//! Effective weights of those to choose from, by index from 0 to n-1.

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Weights {
    /// The usual case, and there may be many.
    Equal {
        weight: u64,
        count: usize,
    },
    Each(Vec<u64>),
}

impl Weights {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Equal { count, .. } => *count,
            Self::Each(weights) => weights.len(),
        }
    }

    pub(crate) fn total(&self) -> f64 {
        match self {
            Self::Equal { weight, count } => *weight as f64 * *count as f64,
            Self::Each(weights) => weights.iter().map(|&weight| weight as f64).sum(),
        }
    }
}

#[cfg(test)]
impl From<&[u64]> for Weights {
    fn from(weights: &[u64]) -> Self {
        match weights {
            [weight, others @ ..] if others.iter().all(|other| other == weight) => Self::Equal {
                weight: *weight,
                count: weights.len(),
            },
            _ => Self::Each(weights.into()),
        }
    }
}
