//! What becomes of builds whose steps fail, whose cached results are gone, or whose company leaves.

use super::*;
use crate::key::{ContentDigest, OpKey};
use crate::port::Record;

/// Steps one on the other, on one image.
fn chain(args: &[&str]) -> Arc<Graph> {
    let mut draft = Draft::default();
    let base = draft.source("image://base");
    let top = args.iter().fold(base, |top, args| draft.run(args, top));
    draft.finish(&[top])
}

/// The key of a graph's first step.
fn first_key(graph: &Graph) -> crate::key::CacheKey {
    OpKey::of(&graph.vertices()[1]).on(&record("base").identities[..1])
}

fn keep(desk: &Desk, graph: &Graph, found: &Record) {
    let parts = KeyParts::of(&graph.vertices()[1], &record("base").identities[..1]);
    desk.host.records.lock().unwrap().insert(first_key(graph), (found.clone(), parts));
}

#[tokio::test(start_paused = true)]
async fn a_shared_step_that_fails_fails_all_who_wait_for_it() {
    let desk = desk(ROOMY);
    let stories = [Story::default(), Story::default()];
    let first = desk.submit(1, &one("fail"), &stories[0]);
    let second = async {
        sleep(5 * SECOND).await;
        desk.submit(2, &chain(&["fail", "sleep late"]), &stories[1]).await
    };
    let (first, second) = tokio::join!(first, second);
    for (outcome, story) in [first, second].into_iter().zip(&stories) {
        let SolveError::Step { name, source, .. } = outcome.unwrap_err() else { panic!("a step failed") };
        assert_eq!((name.as_str(), source.to_string().as_str()), ("fail", "exit code: 1"));
        assert!(story.has("failed fail: exit code: 1"));
        story.assert_complete();
    }
    assert_eq!(desk.host.ran(), ["fail"]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_build_stops_its_own_steps_but_not_those_that_another_waits_for() {
    let (desk, story) = (desk(ROOMY), Story::default());
    let failing = desk.submit(1, &several(&["fail", "sleep own", "sleep shared"]), &story);
    let other = async {
        sleep(5 * SECOND).await;
        let graph = chain(&["sleep shared", "sleep late"]);
        desk.submit(2, &graph, &Story::default()).await
    };
    let (failed, other) = tokio::join!(failing, other);
    failed.unwrap_err();
    assert_eq!(other.unwrap().summary, Summary { ran: 2, cached: 0 });
    assert_eq!(desk.host.ran(), ["fail", "sleep late", "sleep own", "sleep shared"]);
    story.assert_complete();
}

#[tokio::test(start_paused = true)]
async fn a_build_that_failed_ends_although_another_begins_before_its_misses_are_told() {
    let desk = desk(ROOMY);
    desk.host.explains.store(60, SeqCst);
    let begin = Instant::now();
    let failing = desk.submit(1, &one("fail"), &Story::default());
    let other = async {
        sleep(30 * SECOND).await;
        desk.submit(2, &one("sleep a"), &Story::default()).await
    };
    let (failed, other) = tokio::join!(
        async {
            let failed = failing.await;
            (failed.unwrap_err(), begin.elapsed())
        },
        other
    );
    assert_eq!((failed.0.to_string().as_str(), failed.1), ("fail", 61 * SECOND), "the pin and the reasons");
    other.unwrap();
    assert_eq!(desk.host.ran(), ["fail", "sleep a"], "tried once");
}

#[tokio::test(start_paused = true)]
async fn a_build_that_needs_only_the_record_of_lost_files_does_not_fail_with_who_needs_them() {
    let desk = desk(ROOMY);
    // Found, without files, and making them again fails.
    let (gone, graph) = (record("of old"), chain(&["fail"]));
    keep(&desk, &graph, &gone);
    desk.host.gone.lock().unwrap().push(gone.id);
    // What stands on it is known only when a step beside it has run.
    let mut draft = Draft::default();
    let base = draft.source("image://base");
    let (bad, beside) = (draft.run("fail", base), draft.run("sleep beside", base));
    let top = draft.merge(&[bad, beside]);
    let needs_record = draft.finish(&[top]);
    let digests = [gone.identities[0], record("sleep beside 0").identities[0]];
    let parts = KeyParts::of(&needs_record.vertices()[3], &digests);
    let above = record("above");
    desk.host.records.lock().unwrap().insert(parts.key(), (above.clone(), parts));
    let needs_files = desk.submit(1, &graph, &Story::default());
    let needs_record = async {
        sleep(5 * SECOND).await;
        desk.submit(2, &needs_record, &Story::default()).await
    };
    let (failed, solved) = tokio::join!(needs_files, needs_record);
    failed.unwrap_err();
    assert_eq!(solved.unwrap().targets[0].record, above);
}

#[tokio::test(start_paused = true)]
async fn everything_below_lost_files_is_made_again_from_below() {
    let (desk, graph) = (desk(ROOMY), chain(&["sleep a", "sleep b", "sleep c"]));
    desk.submit(1, &graph, &Story::default()).await.unwrap();
    let all = desk.host.records.lock().unwrap().values().map(|(record, _)| record.id).collect::<Vec<_>>();
    desk.host.gone.lock().unwrap().extend(all);
    let story = Story::default();
    let solved = desk.submit(2, &graph, &story).await.unwrap();
    assert_eq!(solved.summary, Summary { ran: 3, cached: 0 });
    assert_eq!(desk.host.ran(), ["sleep a", "sleep a", "sleep b", "sleep b", "sleep c", "sleep c"]);
    story.assert_complete();
}

#[tokio::test(start_paused = true)]
async fn files_that_nobody_needs_may_be_gone() {
    let (desk, graph) = (desk(ROOMY), chain(&["sleep a", "sleep b", "sleep c"]));
    let top = desk.submit(1, &graph, &Story::default()).await.unwrap().targets[0].record.id;
    let all = desk.host.records.lock().unwrap().values().map(|(record, _)| record.id).collect::<Vec<_>>();
    desk.host.gone.lock().unwrap().extend(all.into_iter().filter(|id| *id != top));
    let solved = desk.submit(2, &graph, &Story::default()).await.unwrap();
    assert_eq!(solved.summary, Summary { ran: 0, cached: 3 });
}

#[tokio::test(start_paused = true)]
async fn a_record_that_lacks_outputs_is_no_result() {
    let (desk, graph) = (desk(ROOMY), one("sleep a"));
    let short = Record { identities: Vec::<ContentDigest>::new(), ..record("short") };
    keep(&desk, &graph, &short);
    // Another process finds the same one while this one waits for its turn.
    desk.host.elsewhere.lock().unwrap().insert("sleep a".into(), short.clone());
    let solved = desk.submit(1, &graph, &Story::default()).await.unwrap();
    assert_eq!(solved.summary, Summary { ran: 1, cached: 0 });
    assert_ne!(solved.targets[0].record.id, short.id);
}

#[tokio::test(start_paused = true)]
async fn two_builds_without_cache_share_what_began_after_both() {
    let (desk, graph) = (desk(ROOMY), one("sleep a"));
    desk.submit(1, &graph, &Story::default()).await.unwrap();
    let (first, second) = tokio::join!(desk.submit_anew(2, &graph), desk.submit_anew(3, &graph));
    assert_eq!(first.unwrap().targets, second.unwrap().targets);
    assert_eq!(desk.host.ran(), ["sleep a", "sleep a"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_first_waiter_leaves_goes_on_for_the_second() {
    let desk = desk(ROOMY);
    let (gone, stays) = (Story::default(), Story::default());
    let first = desk.submit(1, &one("sleep a"), &gone);
    let second = desk.submit(2, &chain(&["sleep a", "sleep b"]), &stays);
    let begin = Instant::now();
    sleep(5 * SECOND).await;
    drop(first);
    assert_eq!(second.await.unwrap().summary, Summary { ran: 2, cached: 0 });
    assert_eq!((begin.elapsed(), desk.host.dropped.load(SeqCst)), (22 * SECOND, 0), "nothing began again");
    assert!(stays.has("log sleep a: sleep a begins"));
    gone.assert_complete();
    stays.assert_complete();
}

#[tokio::test(start_paused = true)]
async fn a_step_is_given_up_at_once_although_another_build_is_all_look_ups() {
    let desk = desk(ROOMY);
    let long = built_before(&desk, 2000, true);
    desk.host.slow_cache.store(true, SeqCst);
    let gone = desk.submit(1, &one("sleep a"), &Story::default());
    let found = desk.submit(2, &long, &Story::default());
    let leave = async {
        sleep(2 * SECOND + SECOND / 2).await;
        drop(gone);
        sleep(SECOND / 100).await;
        desk.host.dropped.load(SeqCst)
    };
    let (found, dropped) = tokio::join!(found, leave);
    assert_eq!((found.unwrap().summary, dropped), (Summary { ran: 0, cached: 2001 }, 1));
}

#[tokio::test(start_paused = true)]
async fn marks_that_cannot_be_set_fail_no_build() {
    let desk = desk(ROOMY);
    desk.host.broken_marks.store(true, SeqCst);
    assert_eq!(desk.submit(1, &one("sleep a"), &Story::default()).await.unwrap().summary.ran, 1);
}
