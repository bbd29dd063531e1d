//! Purses and turns at their edges: the quota that is just full, the project nobody has heard of, numbers at their end.

use std::collections::HashMap;

use marquee_domain::project::{CPU_SLOT_SHARE, FORESIGHT_S};

use super::super::limits::{Purses, Turns};
use super::*;

const NEW: ProjectId = ProjectId(7);
const KINDS: [Kind; 2] = [Kind::Gpu, Kind::Cpu];

fn quota(used: u32, quota: u32) -> Option<AtOnce> {
    Some(AtOnce {
        used,
        quota,
        frees_at: None,
    })
}

fn spent() -> Option<Spent> {
    Some(Spent {
        used_hours: 10.0,
        quota_hours: 10.0,
        frees_at: None,
    })
}

fn purses(share: ProjectShare) -> Purses {
    Purses::new(&Limits {
        projects: vec![share],
        ..Limits::default()
    })
}

#[test]
fn a_quota_lets_in_what_fills_it_and_nothing_beyond() {
    let cases: &[(u32, u32, u32, bool)] = &[
        (0, 4, 4, true),
        (0, 4, 5, false),
        (3, 4, 1, true),
        (4, 4, 1, false),
        // Lowered below what runs already: nothing new, and no wrap-around.
        (9, 4, 1, false),
        (0, 0, 1, false),
        (u32::MAX, u32::MAX, 1, true),
        (u32::MAX - 1, u32::MAX, 1, true),
        (1, 2, u32::MAX, false),
    ];
    for (used, of, asked, fits) in cases {
        let share = ProjectShare {
            gpus: quota(*used, *of),
            cpu_slots: quota(*used, *of),
            ..ProjectShare::default()
        };
        for kind in KINDS {
            let allowed = purses(share).allows(ProjectId(0), kind, *asked);
            assert_eq!(allowed.is_ok(), *fits, "{asked} more than {used} of {of}");
        }
    }
}

#[test]
fn a_quota_of_one_kind_says_nothing_of_the_other() {
    let full = ProjectShare {
        gpus: quota(2, 2),
        spent: spent(),
        ..ProjectShare::default()
    };
    let purses = purses(full);
    assert!(purses.allows(ProjectId(0), Kind::Cpu, 100).is_ok());
    // Devices that come back within the hour are said before hours that come back next week.
    let hit = purses.allows(ProjectId(0), Kind::Gpu, 1).unwrap_err();
    assert!(matches!(
        hit,
        QuotaHit::Gpus(AtOnce {
            used: 2,
            quota: 2,
            ..
        })
    ));
    let hours = ProjectShare {
        gpus: quota(0, 2),
        ..full
    };
    let hit = super::quotas::purses(hours).allows(ProjectId(0), Kind::Gpu, 1);
    assert!(matches!(hit, Err(QuotaHit::GpuHours(_))));
    let cpus = ProjectShare {
        cpu_slots: quota(1, 1),
        ..ProjectShare::default()
    };
    let hit = super::quotas::purses(cpus).allows(ProjectId(0), Kind::Cpu, 1);
    assert!(matches!(hit, Err(QuotaHit::CpuSlots(_))));
}

#[test]
fn a_project_that_nobody_has_heard_of_may_take_all_and_is_charged_like_any_other() {
    let mut purses = purses(ProjectShare {
        used: 5.0,
        ..ProjectShare::default()
    });
    assert!(purses.allows(NEW, Kind::Gpu, u32::MAX).is_ok());
    assert_eq!(purses.rank(NEW).to_bits(), 0.0_f64.to_bits());
    purses.charge(NEW, Kind::Gpu, 2);
    assert!((purses.rank(NEW) - 2.0 * FORESIGHT_S).abs() < 1e-9);
    // Those between are made with it, and have used nothing.
    assert_eq!(purses.rank(ProjectId(3)).to_bits(), 0.0_f64.to_bits());
    assert!((purses.rank(ProjectId(0)) - 5.0).abs() < 1e-9);
}

#[test]
fn what_is_taken_counts_at_once_against_quota_and_share() {
    let mut purses = purses(ProjectShare {
        gpus: quota(0, 3),
        cpu_slots: quota(0, 3),
        weight: 2.0,
        ..ProjectShare::default()
    });
    let project = ProjectId(0);
    purses.charge(project, Kind::Gpu, 2);
    assert!(purses.allows(project, Kind::Gpu, 1).is_ok());
    assert!(purses.allows(project, Kind::Gpu, 2).is_err());
    assert!(
        purses.allows(project, Kind::Cpu, 3).is_ok(),
        "those are its GPUs"
    );
    let by_gpus = purses.rank(project);
    assert!(
        (by_gpus - FORESIGHT_S).abs() < 1e-9,
        "two GPUs at twice the weight"
    );
    purses.charge(project, Kind::Cpu, 2);
    let by_cpus = purses.rank(project) - by_gpus;
    assert!((by_cpus - CPU_SLOT_SHARE * FORESIGHT_S).abs() < 1e-9);
    // Beyond the largest number it stays there.
    purses.charge(project, Kind::Cpu, u32::MAX);
    purses.charge(project, Kind::Cpu, u32::MAX);
    assert!(purses.allows(project, Kind::Cpu, 1).is_err());
}

#[test]
fn turns_are_counted_by_group_and_never_below_none() {
    let (array, key) = (Group::Array(JobId(1)), Group::Key(1));
    let limits = Limits {
        groups: HashMap::from([(array, 2), (key, 0)]),
        ..Limits::default()
    };
    let mut turns = Turns::new(&limits);
    assert!(turns.allows(array));
    assert!(!turns.allows(key));
    for unlimited in [Group::None, Group::Array(JobId(2)), Group::Key(2)] {
        turns.take(unlimited);
        assert!(turns.allows(unlimited), "{unlimited:?}");
    }
    for allowed in [true, false, false] {
        turns.take(array);
        assert_eq!(turns.allows(array), allowed);
    }
    turns.take(key);
    assert!(!turns.allows(key));
}

#[test]
fn quotas_say_what_is_used_up_and_when_it_frees() {
    let when = DateTime::from_timestamp(1_800_000_000, 0);
    let devices = |frees_at| AtOnce {
        used: 8,
        quota: 8,
        frees_at,
    };
    let hours = |frees_at| Spent {
        used_hours: 40.04,
        quota_hours: 40.0,
        frees_at,
    };
    let cases = [
        (
            QuotaHit::Gpus(devices(None)),
            "8 of 8 GPUs are in use; frees when a job of the project ends",
        ),
        (
            QuotaHit::Gpus(devices(when)),
            "8 of 8 GPUs are in use; frees by 2027-01-15 08:00 UTC",
        ),
        (
            QuotaHit::CpuSlots(devices(None)),
            "8 of 8 CPU slots are in use; frees when a job of the project ends",
        ),
        (
            QuotaHit::GpuHours(hours(None)),
            "40.0 of 40.0 GPU-hours of its week are used; frees as they age",
        ),
        (
            QuotaHit::GpuHours(hours(when)),
            "40.0 of 40.0 GPU-hours of its week are used; frees by 2027-01-15 08:00 UTC",
        ),
    ];
    for (hit, words) in cases {
        assert_eq!(hit.words(), words);
        let quota = Obstacle::Quota { quota: hit };
        assert_eq!(quota.words(), format!("quota of its project: {words}"));
        let stored = serde_json::to_value(quota).unwrap();
        assert_eq!(serde_json::from_value::<Obstacle>(stored).unwrap(), quota);
    }
}
