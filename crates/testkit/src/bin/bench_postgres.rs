//! A PostgreSQL to measure against, with everything on that makes a commit durable: prints
//! `{"port": …, "user": …, "owner": …, "programs": …}`, where `user` may do everything, `owner` is held by row-level security, and `programs` is the folder of `pgbench` and the other programs that came
//! with the server, and keeps it until standard input ends. Its folder goes with it. For benchmarks alone.

use std::io::Read as _;

use astrfleet_testkit::{parts::find, postgres::Postgres};

#[tokio::main]
async fn main() -> Result<(), std::io::Error> {
    let server = Postgres::start_durable().await;
    let programs = find("pgbench").parent().map(std::path::Path::to_owned).unwrap_or_default();
    let (user, owner) = (server.user(), server.owner());
    println!("{}", serde_json::json!({ "port": server.port(), "user": user, "owner": owner, "programs": programs }));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    drop(server);
    Ok(())
}
