//! A few of the things that `make faults` does to a fleet under load: nothing is lost, doubled, out of order, or read by
//! another tenant.

use astrfleet_testkit::faults::{Field, Row, some};

/// One fleet for all of them: starting it is most of the work.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_every_message_has_one_answer() {
    let faults = some();
    let mut field = Field::prepare(&faults).await;
    for fault in &faults {
        let row = field.suffer(fault).await;
        println!("{}\n{}", Row::head(), row.line());
        assert!(row.is_good(), "{row:#?}");
    }
}
