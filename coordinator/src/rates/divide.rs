//! Who may ask how fast: a pure function from what ranks want and hosts bear to shares.
//!
//! Invariant: at no host do the shares of those who ask it add up to more than its limit; nobody
//! gets more than its own settings allow, or less than a part of an equal share.

/// The part of an equal share that a rank keeps when it wants nothing: enough to begin again and to be seen to.
const IDLE_PART: f64 = 0.1;

/// A rank that asks hosts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asker {
    /// Places of its hosts in the list of limits.
    pub(super) hosts: Vec<usize>,
    /// Requests a second that its own settings allow.
    pub(super) limit: f64,
    /// Requests a second that it could use.
    pub(super) wish: f64,
}

/// The share of each asker. Wishes are met as evenly as the limits of the hosts allow; what is left
/// when all are met is dealt out evenly too, so that no limit goes to waste.
pub(super) fn divide(askers: &[Asker], limits: &[f64]) -> Vec<f64> {
    let mut crowd = vec![0u32; limits.len()];
    for host in askers.iter().flat_map(|asker| &asker.hosts) {
        crowd[*host] += 1;
    }
    let fair = |asker: &Asker| {
        let equal = asker
            .hosts
            .iter()
            .map(|host| limits[*host] / f64::from(crowd[*host]));
        equal.fold(asker.limit, f64::min)
    };
    let mut shares: Vec<f64> = askers.iter().map(|asker| fair(asker) * IDLE_PART).collect();
    let wishes: Vec<f64> = askers
        .iter()
        .map(|asker| asker.wish.min(asker.limit))
        .collect();
    fill(askers, limits, &mut shares, &wishes);
    let all: Vec<f64> = askers.iter().map(|asker| asker.limit).collect();
    fill(askers, limits, &mut shares, &all);
    shares
}

/// Raises all shares alike, each up to its goal or until one of its hosts is full.
fn fill(askers: &[Asker], limits: &[f64], shares: &mut [f64], goals: &[f64]) {
    // Sums of floats do not come out even: less than this is no room, and no wish.
    const ENOUGH: f64 = 1e-9;
    let mut open: Vec<usize> = (0..askers.len()).collect();
    loop {
        let mut room = limits.to_vec();
        for (asker, share) in askers.iter().zip(shares.iter()) {
            for host in &asker.hosts {
                room[*host] -= share;
            }
        }
        let is_full = |host: &usize| room[*host] <= limits[*host] * ENOUGH;
        open.retain(|at| {
            goals[*at] - shares[*at] > goals[*at] * ENOUGH && !askers[*at].hosts.iter().any(is_full)
        });
        if open.is_empty() {
            return;
        }
        let mut rising = vec![0u32; limits.len()];
        for host in open.iter().flat_map(|at| &askers[*at].hosts) {
            rising[*host] += 1;
        }
        let by_host = rising.iter().zip(&room).filter(|(rising, _)| **rising > 0);
        let step = by_host
            .map(|(rising, room)| room / f64::from(*rising))
            .chain(open.iter().map(|at| goals[*at] - shares[*at]))
            .fold(f64::INFINITY, f64::min);
        for at in &open {
            shares[*at] += step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(hosts: &[usize], limit: f64, wish: f64) -> Asker {
        Asker {
            hosts: hosts.to_vec(),
            limit,
            wish,
        }
    }

    fn assert_near(shares: &[f64], expected: &[f64]) {
        let near = shares
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near && shares.len() == expected.len(), "{shares:?}");
    }

    #[test]
    fn who_asks_alone_has_all_and_equals_have_equal_shares() {
        assert_near(&divide(&[asker(&[0], 40.0, 40.0)], &[40.0]), &[40.0]);
        let four = vec![asker(&[0], 40.0, 40.0); 4];
        assert_near(&divide(&four, &[40.0]), &[10.0; 4]);
    }

    #[test]
    fn what_one_does_not_want_goes_to_those_who_do() {
        let askers = [
            asker(&[0], 40.0, 0.0),
            asker(&[0], 40.0, 40.0),
            asker(&[0], 40.0, 40.0),
            asker(&[0], 40.0, 3.0),
        ];
        assert_near(&divide(&askers, &[40.0]), &[1.0, 18.0, 18.0, 3.0]);
        // Nobody wants much: the rest lies ready.
        let idle = vec![asker(&[0], 40.0, 1.0); 2];
        assert_near(&divide(&idle, &[40.0]), &[20.0, 20.0]);
    }

    #[test]
    fn a_job_of_several_hosts_is_held_by_the_narrowest() {
        // The first asks an API and its images, the second only the images.
        let askers = [asker(&[0, 1], 40.0, 40.0), asker(&[1], 30.0, 30.0)];
        assert_near(&divide(&askers, &[10.0, 30.0]), &[10.0, 20.0]);
    }

    /// Numbers that look random, the same in every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    #[test]
    fn no_host_is_asked_for_more_than_it_bears_and_nobody_starves() {
        let mut dice = Dice(7);
        for _ in 0..2_000 {
            let hosts = 1 + usize::try_from(dice.below(5)).unwrap();
            let limits: Vec<f64> = (0..hosts).map(|_| 1.0 + dice.below(100) as f64).collect();
            let askers: Vec<Asker> = (0..1 + dice.below(20))
                .map(|_| {
                    let own: Vec<usize> = (0..hosts).filter(|_| dice.below(2) == 0).collect();
                    let limit = 1.0 + dice.below(100) as f64;
                    asker(&own, limit, dice.below(120) as f64)
                })
                .collect();
            let shares = divide(&askers, &limits);
            let asked = |host: usize| -> f64 {
                let at = askers.iter().zip(&shares);
                at.filter(|(asker, _)| asker.hosts.contains(&host))
                    .map(|(_, share)| share)
                    .sum()
            };
            let is_full = |host: &usize| asked(*host) > limits[*host] * (1.0 - 1e-6);
            for (host, limit) in limits.iter().enumerate() {
                assert!(asked(host) <= limit * (1.0 + 1e-6), "{askers:?} {limits:?}");
            }
            for (asker, share) in askers.iter().zip(&shares) {
                assert!(*share > 0.0 && *share <= asker.limit * (1.0 + 1e-6));
                // Nothing goes to waste: it has all it may, or a host of its own is full.
                let has_all = *share > asker.limit * (1.0 - 1e-6);
                assert!(
                    has_all || asker.hosts.iter().any(is_full),
                    "{askers:?} {limits:?}"
                );
            }
        }
    }
}
