//! The fake model provider as a program, for benchmarks: prints its base URL on one line of JSON and serves until it is
//! killed. `fake-provider [ADDRESS]`, by default a free port of the loopback address. It keeps no requests.

use astrfleet_testkit::fake_provider::FakeProvider;

fn main() -> Result<(), std::net::AddrParseError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let provider = FakeProvider::start_on(address);
    provider.stop_recording();
    println!("{}", serde_json::json!({"event": "ready", "url": provider.url()}));
    loop {
        std::thread::park();
    }
}
