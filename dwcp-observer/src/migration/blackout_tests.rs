//! Blackouts from stamps like those of real migrations.

use proptest::prelude::*;

use super::*;

#[test]
fn parts_are_split_at_their_edges() {
    let edges = Edges {
        last_pass: Some(110),
        device: Some(150),
        sent: Some(170),
        received: Some(175),
        loaded: Some(190),
        resumed: None,
    };
    let parts = Breakdown::split(100, 200, edges);
    let expected = Breakdown {
        stop: Some(10),
        ram: Some(40),
        device: Some(20),
        network: Some(5),
        load: Some(15),
        resume: None,
        start: Some(10),
    };
    assert_eq!(parts, expected);
    // The manager let it run 6 ns after it was loaded.
    let parts = Breakdown::split(100, 200, Edges { resumed: Some(196), ..edges });
    assert_eq!((parts.load, parts.resume, parts.start), (Some(15), Some(6), Some(4)));
    // Received before all was written: the writer returned later than the reader read.
    let parts = Breakdown::split(100, 200, Edges { received: Some(160), ..edges });
    assert_eq!((parts.device, parts.network, parts.load), (Some(20), Some(0), Some(20)));
    let unknown = Breakdown { start: Some(100), ..Breakdown::default() };
    assert_eq!(Breakdown::split(100, 200, Edges::default()), unknown);
}

proptest! {
    #[test]
    fn the_parts_sum_to_the_whole(
        stopped in 0u64..1000,
        length in 0u64..1000,
        edges in proptest::array::uniform6(proptest::option::of(0u64..3000)),
    ) {
        let [last_pass, device, sent, received, loaded, resumed] = edges;
        let edges = Edges { last_pass, device, sent, received, loaded, resumed };
        let parts = Breakdown::split(stopped, stopped + length, edges);
        prop_assert_eq!(parts.sum(), length);
    }
}
