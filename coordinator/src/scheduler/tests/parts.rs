//! Parts of GPUs: who gets one, and what is said to who does not.

use super::*;

fn place(pending: &[Pending], hosts: &[Host]) -> Outcome {
    super::place(pending, hosts, at(0))
}

fn of_memory(job: Pending, mebibytes: u32) -> Pending {
    let mut job = job;
    job.shape.gpu_memory_mib = Some(mebibytes);
    job
}

fn shared() -> Host {
    host("a")
        .part(PartKind::Share, 20_000)
        .part(PartKind::Share, 20_000)
}

#[test]
fn a_share_goes_to_who_says_what_it_uses_and_an_instance_to_anybody_small() {
    let mig = [host("m").part(PartKind::Mig, 10_000)];
    let small = of_memory(job(1, GPU, 1), 8_000);
    assert_eq!(
        lines(&place(&[small], &[shared()]), &[shared()]),
        ["1.0 -> a.0 gpu0"]
    );
    assert_eq!(lines(&place(&[small], &mig), &mig), ["1.0 -> m.0 gpu0"]);
    // Who does not say gets an instance, and no share.
    assert_eq!(place(&[job(1, GPU, 1)], &mig).placements.len(), 1);
    assert!(place(&[job(1, GPU, 1)], &[shared()]).placements.is_empty());
    // It is too small, or of no use to more than one rank and device.
    assert!(
        place(&[of_memory(small, 11_000)], &mig)
            .placements
            .is_empty()
    );
    let two = of_memory(job(1, GPU, 2), 8_000);
    assert!(place(&[two], &[shared()]).placements.is_empty());
    assert!(
        place(
            &[of_memory(job(1, GPU, 1).each(2), 1)],
            &[shared(), mig[0].clone()]
        )
        .placements
        .is_empty()
    );
}

#[test]
fn whole_gpus_are_left_to_who_needs_them() {
    let hosts = [host("a").gpus(2), host("z").part(PartKind::Share, 20_000)];
    let jobs = [of_memory(job(1, GPU, 1), 8_000), job(2, GPU, 2)];
    assert_eq!(
        lines(&place(&jobs, &hosts), &hosts),
        ["1.0 -> z.0 gpu0", "2.0 -> a.0 gpu0", "2.1 -> a.1 gpu1"]
    );
    // Where no part is free a whole one will do, if it is large enough.
    let jobs = [
        of_memory(job(1, GPU, 1), 8_000),
        of_memory(job(2, GPU, 1), 80_000),
    ];
    assert_eq!(place(&jobs, &hosts).placements.len(), 2);
    let large = of_memory(job(1, GPU, 1), 90_000);
    assert_eq!(
        place(&[large], &hosts).waiting[0].reason,
        "needs GPUs of 90000 MiB (gpu_memory), and the largest that is online, gpu 0 of a (H100), has 81920 MiB"
    );
}

#[test]
fn what_is_missing_is_said() {
    let why = |job: Pending, hosts: &[Host]| place(&[job], hosts).waiting[0].reason.clone();
    let parts = "the GPUs that are online and large enough are offered in parts";
    assert!(why(job(1, GPU, 1), &[shared()]).starts_with(parts));
    assert!(why(job(1, GPU, 2), &[shared()]).starts_with(parts));
    let busy = [shared().runs(7, &[gpu(0)]).runs(8, &[gpu(1)])];
    assert_eq!(
        why(of_memory(job(1, GPU, 1), 8_000), &busy),
        "needs 1 gpu device, 0 of 2 are free: waits for job 7 on a, job 8 on a"
    );
}
