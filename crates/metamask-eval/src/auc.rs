//! How well a number tells two kinds apart.

use crate::rank_correlation::mean_ranks;

/// Area under the receiver operating characteristic: the probability that a member's
/// score is above a non-member's, equal scores counting half.
///
/// ```text
/// AUC = (Σ_{i member} rᵢ − n₁ (n₁ + 1) / 2) / (n₁ n₀)
/// ```
/// r are the mean ranks of the scores; ½ is chance, 1 perfect, 0 perfect upside down.
/// `None` if all are members or none is.
///
/// # Panics
/// If the lengths differ.
/// # Source
/// Hanley & McNeil 1982; the statistic of Mann & Whitney 1947.
pub fn auc(scores: &[f64], is_member: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), is_member.len(), "auc: a score for each");
    let n_members = is_member.iter().filter(|&&member| member).count();
    let n_others = is_member.len() - n_members;
    if n_members == 0 || n_others == 0 {
        return None;
    }
    let ranks = mean_ranks(scores);
    let sum: f64 =
        ranks.iter().zip(is_member).filter(|(_, member)| **member).map(|(rank, _)| rank).sum();
    let least = (n_members * (n_members + 1)) as f64 / 2.0;
    Some((sum - least) / (n_members * n_others) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_share_of_pairs_in_the_right_order() {
        let scores = [0.9, 0.1, 0.5, 0.5, 0.7];
        let members = [true, false, true, false, false];
        // Pairs: 0.9 above three, 0.5 above 0.1, equal to 0.5, below 0.7.
        assert_eq!(auc(&scores, &members), Some(4.5 / 6.0));
        assert_eq!(auc(&[1.0, 2.0], &[false, true]), Some(1.0));
        assert_eq!(auc(&[1.0, 2.0], &[true, false]), Some(0.0));
        assert_eq!(auc(&[1.0; 4], &[true, false, false, true]), Some(0.5));
        assert_eq!(auc(&[1.0, 2.0], &[true, true]), None);
    }
}
