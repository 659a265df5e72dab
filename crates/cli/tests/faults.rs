//! A few of the things that `make faults` does to a fleet under load: no message is lost, doubled, or read by another
//! tenant.

use astrfleet_testkit::faults::{Field, some};

/// One fleet for all of them: starting it is most of the work.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_every_message_has_one_answer() {
    let mut field = Field::prepare().await;
    for fault in some() {
        let row = field.suffer(&fault).await;
        println!("{row:?}");
        assert!(row.is_good(), "{row:?}");
    }
}
