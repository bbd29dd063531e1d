//! Examples that read as sentences, and properties over generated clusters.

use chrono::TimeDelta;
use marquee_domain::flavour;

use super::*;

mod build;
mod contract;
mod edges;
mod forecast;
mod growth;
mod parts;
mod properties;
mod quotas;
mod sharing;
mod waiting;
mod windows;

use build::*;

#[test]
fn a_gang_prefers_the_one_host_that_it_fills_best() {
    let hosts = [host("a").gpus(4), host("b").gpus(2), host("c").gpus(3)];
    check(
        &[job(1, GPU, 2)],
        &hosts,
        &["1.0 -> b.0 gpu0", "1.1 -> b.1 gpu1"],
    );
}

#[test]
fn a_gang_that_no_host_holds_takes_the_fewest_hosts() {
    let hosts = [
        host("a").cpus(1),
        host("b").cpus(2),
        host("c").cpus(1),
        host("d").cpus(2),
    ];
    check(
        &[job(1, CPU, 5)],
        &hosts,
        &[
            "1.0 -> b.0 cpu0",
            "1.1 -> b.1 cpu1",
            "1.2 -> d.0 cpu0",
            "1.3 -> d.1 cpu1",
            "1.4 -> a.0 cpu0",
        ],
    );
}

#[test]
fn a_rank_has_all_its_devices_on_one_host() {
    let hosts = [host("a").gpus(3), host("b").gpus(3)];
    check(
        &[job(1, GPU, 2).each(2)],
        &hosts,
        &["1.0 -> a.0 gpu0+gpu1", "1.1 -> b.0 gpu0+gpu1"],
    );
    check(
        &[job(1, GPU, 3).each(2)],
        &hosts,
        &[
            "1: needs 6 gpu devices, 2 on one host for each rank; the workers that are online have 6, but not so together",
        ],
    );
}

#[test]
fn any_takes_gpus_for_the_whole_gang_or_cpus_for_the_whole_gang() {
    let hosts = [host("a").gpus(1).cpus(2), host("b").cpus(1)];
    check(&[job(1, ANY, 1)], &hosts, &["1.0 -> a.0 gpu0"]);
    check(
        &[job(1, ANY, 2)],
        &hosts,
        &["1.0 -> a.0 cpu0", "1.1 -> a.1 cpu1"],
    );
}

#[test]
fn priority_goes_before_submission_order() {
    let hosts = [host("a").cpus(1)];
    check(
        &[job(1, CPU, 1), job(2, CPU, 1).priority(5)],
        &hosts,
        &[
            "2.0 -> a.0 cpu0",
            "1: needs 1 cpu device, 0 of 1 are free: waits for job 2 on a",
        ],
    );
}

#[test]
fn a_job_that_fits_does_not_wait_behind_one_that_does_not() {
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0)]), host("b").gpus(1)];
    check(
        &[job(1, GPU, 3), job(2, GPU, 1)],
        &hosts,
        &[
            "2.0 -> a.0 gpu1",
            "1: needs 3 gpu devices, 1 of 3 are free: waits for job 2 on a, job 9 on a",
        ],
    );
}

#[test]
fn devices_are_held_back_for_a_gang_that_has_waited_for_long() {
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0)])];
    let pending = [
        job(1, GPU, 2),
        job(2, GPU, 1).queued(30),
        job(3, GPU, 1).priority(1),
    ];
    let plan = place(&pending[..2], &hosts, at(30));
    assert_eq!(
        lines(&plan, &hosts),
        [
            "1: needs 2 gpu devices, 1 of 2 are free: waits for job 9 on a",
            "2: needs 1 gpu device, which is held back for job 1: that one has waited longer",
        ]
    );
    // A job of higher priority comes earlier in the order.
    let plan = place(&pending, &hosts, at(30));
    assert_eq!(plan.placements[0].job, JobId(3));
}

#[test]
fn a_back_off_is_waited_out() {
    let mut waiting = job(1, CPU, 1);
    waiting.not_before = Some(at(5));
    let hosts = [host("a").cpus(1)];
    let plan = place(std::slice::from_ref(&waiting), &hosts, at(4));
    assert_eq!(
        plan.waiting[0].reason,
        "the next attempt starts at 14:13:25 UTC, after a back-off"
    );
    assert_eq!(place(&[waiting], &hosts, at(5)).placements.len(), 1);
}

#[test]
fn what_the_cluster_cannot_give_is_named() {
    let cases: &[(&[Host], Pending, &str)] = &[
        (
            &[],
            job(1, CPU, 1),
            "1: no worker is online; start one with \"marquee-worker\"",
        ),
        (
            &[host("a").cpus(1).lost()],
            job(1, CPU, 1),
            "1: no worker is online; start one with \"marquee-worker\"",
        ),
        (
            &[host("a").cpus(4)],
            job(1, GPU, 1),
            "1: no worker that is online has a GPU; bring one with a GPU, or set device = \"any\" in the job's resources",
        ),
        (
            &[host("a").gpus(2), host("b").gpus(1)],
            job(1, GPU, 1).each(4),
            "1: each rank needs 4 gpu devices on one host, and the largest that is online, a, has 2",
        ),
        (
            &[host("a").gpus(2), host("b").gpus(1)],
            job(1, GPU, 4),
            "1: needs 4 gpu devices, the workers that are online have 3; bring more workers or ask for fewer ranks",
        ),
        (
            &[
                host("a").gpus(2).runs(8, &[gpu(0)]),
                host("b").gpus(2).runs(9, &[gpu(1)]),
            ],
            job(1, GPU, 1).each(2),
            "1: needs 2 gpu devices, 2 of 4 are free but not 2 together on one host for each rank: waits for job 8 on a, job 9 on b",
        ),
        (
            &[host("a")
                .cpus(4)
                .runs(4, &[cpu(0)])
                .runs(5, &[cpu(1)])
                .runs(6, &[cpu(2)])
                .runs(7, &[cpu(3)])],
            job(1, CPU, 1),
            "1: needs 1 cpu device, 0 of 4 are free: waits for job 4 on a, job 5 on a, job 6 on a and 1 more",
        ),
    ];
    for (hosts, pending, expected) in cases {
        check(std::slice::from_ref(pending), hosts, &[expected]);
    }
}

#[test]
fn a_train_job_goes_where_its_trainer_has_kernels_for_the_gpu() {
    let hosts = [
        host("a").k80(),
        host("b").k80().flavour(KEPLER),
        host("c").gpus(1),
    ];
    check(
        &[job(1, GPU, 1).trains(), job(2, GPU, 2).trains()],
        &hosts,
        &["1.0 -> c.0 gpu0", "2.0 -> b.0 gpu0", "2.1 -> b.1 gpu1"],
    );
    // A program of the user's own brings its own kernels.
    check(
        &[job(1, GPU, 2)],
        &hosts,
        &["1.0 -> a.0 gpu0", "1.1 -> a.1 gpu1"],
    );
}

#[test]
fn on_a_host_of_mixed_gpus_the_trainers_gpus_are_taken() {
    let mixed = [host("a").k80().gpu("H100", (9, 0)).gpu("H100", (9, 0))];
    check(
        &[job(1, GPU, 2).trains()],
        &mixed,
        &["1.0 -> a.0 gpu2", "1.1 -> a.1 gpu3"],
    );
}

#[test]
fn a_refusal_names_host_and_cure() {
    let cases: &[(&[Host], Pending, &str)] = &[
        (
            &[host("gpu-03").k80()],
            job(1, GPU, 1).trains(),
            "1: gpu-03 has a Tesla K80 (compute capability 3.7), but its trainer is libtorch 2.11.0, which needs 7.5: install the kepler flavour (docs/deploy.md)",
        ),
        (
            &[host("a").gpus(1).flavour("")],
            job(1, GPU, 1).trains(),
            "1: a has no marquee-trainer that starts: install it with its libtorch (docs/deploy.md)",
        ),
        (
            &[host("a").cpus(2).flavour("")],
            job(1, ANY, 1).trains(),
            "1: a has no marquee-trainer that starts: install it with its libtorch (docs/deploy.md)",
        ),
        (
            &[host("a").gpus(2), host("b").k80()],
            job(1, GPU, 3).trains(),
            "1: needs 3 gpu devices, the workers that are online have 2; bring more workers or ask for fewer ranks; b has a Tesla K80 (compute capability 3.7), but its trainer is libtorch 2.11.0, which needs 7.5: install the kepler flavour (docs/deploy.md)",
        ),
        (
            &[host("a").gpus(2), host("b").k80().flavour(KEPLER)],
            job(1, GPU, 4).trains(),
            "1: needs 4 gpu devices with one flavour of libtorch, and the workers that are online have 2 with libtorch-2.11.0 and 2 with libtorch-2.0.1-kepler: ask for fewer ranks, or install one flavour on all (docs/deploy.md)",
        ),
        (
            &[host("a").gpus(1).runs(9, &[gpu(0)]), host("b").cpus(1)],
            job(1, GPU, 1).trains(),
            "1: needs 1 gpu device, 0 of 1 are free: waits for job 9 on a",
        ),
        (
            &[
                host("a").gpus(2).runs(9, &[gpu(0)]),
                host("b").k80().flavour(KEPLER).runs(8, &[gpu(0)]),
            ],
            job(1, GPU, 2).trains(),
            "1: needs 2 gpu devices, 2 of 4 are free but not of one flavour of libtorch: waits for job 8 on b, job 9 on a",
        ),
    ];
    for (hosts, pending, expected) in cases {
        check(std::slice::from_ref(pending), hosts, &[expected]);
    }
}

#[test]
fn an_ill_gpu_is_left_out_and_named_until_it_is_well() {
    let hosts = [host("a").gpus(2).ill(0)];
    check(&[job(1, GPU, 1)], &hosts, &["1.0 -> a.0 gpu1"]);
    let fault = "gpu 0 of a (H100) is left out: does not answer NVML: reset it";
    check(
        &[job(1, GPU, 2)],
        &hosts,
        &[&format!(
            "1: needs 2 gpu devices, the workers that are online have 1; bring more workers or ask for fewer ranks; {fault}"
        )],
    );
    let all_ill = [host("a").gpus(1).ill(0)];
    check(&[job(1, GPU, 1)], &all_ill, &[&format!("1: {fault}")]);
    let busy = [host("a").gpus(2).ill(0).runs(9, &[gpu(1)])];
    check(
        &[job(1, GPU, 1)],
        &busy,
        &[&format!(
            "1: needs 1 gpu device, 0 of 1 are free: waits for job 9 on a; {fault}"
        )],
    );
    let well = [host("a").gpus(2)];
    assert_eq!(place(&[job(1, GPU, 2)], &well, at(1)).placements.len(), 1);
}

#[test]
fn a_reservation_holds_back_only_what_its_gang_can_use() {
    // The gang waits for both H100; the K80s beside them are anybody's, the free H100 is not.
    let hosts = [host("a")
        .gpu("H100", (9, 0))
        .gpu("H100", (9, 0))
        .k80()
        .runs(9, &[gpu(1)])];
    let pending = [
        job(1, GPU, 2).trains(),
        job(2, GPU, 1).queued(1),
        job(3, GPU, 1).queued(1),
        job(4, GPU, 1).queued(1),
    ];
    let plan = place(&pending, &hosts, at(30));
    assert_eq!(
        lines(&plan, &hosts),
        [
            "2.0 -> a.0 gpu2",
            "3.0 -> a.0 gpu3",
            "1: needs 2 gpu devices, 1 of 2 are free: waits for job 9 on a",
            "4: needs 1 gpu device, which is held back for job 1: that one has waited longer",
        ]
    );
}
