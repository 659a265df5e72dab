//! Where webhooks lead: never to where only we can reach.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

use astrfleet_server::webhook::Network;
use astrfleet_testkit::parts;
use async_trait::async_trait;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::json;
use tokio::net::TcpStream;

use super::World;

/// A world in which names lead where a test wants, and every connection ends at a receiver.
struct Pretended {
    /// What a name leads to, one answer after the other; the last one stays.
    names: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
    connected: Mutex<Vec<SocketAddr>>,
    receiver: SocketAddr,
}

#[derive(Clone)]
struct Pretender(Arc<Pretended>);

#[async_trait]
impl Network for Pretender {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.0.asked.lock().unwrap().push(name.to_owned());
        let mut names = self.0.names.lock().unwrap();
        let answers = names.get_mut(name).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.0.connected.lock().unwrap().push(address);
        TcpStream::connect(self.0.receiver).await
    }
}

#[tokio::test]
async fn nothing_is_sent_to_where_only_we_can_reach() {
    let world = World::configured(|config| config.webhooks.allow_http = true).await;
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let public = "93.184.216.34";
    let names = [
        ("good.example", vec![addresses(&[public])]),
        // It leads elsewhere as soon as it was looked at.
        ("rebinds.example", vec![addresses(&[public]), addresses(&["127.0.0.1"])]),
        ("inside.example", vec![addresses(&["10.0.0.7"])]),
        ("metadata.example", vec![addresses(&["169.254.169.254"])]),
        ("mixed.example", vec![addresses(&[public, "127.0.0.1"])]),
        ("mapped.example", vec![addresses(&["::ffff:127.0.0.1"])]),
        ("nat64.example", vec![addresses(&["64:ff9b::7f00:1"])]),
        ("empty.example", vec![Vec::new()]),
    ];
    let pretended = Arc::new(Pretended {
        names: Mutex::new(names.iter().map(|(name, answers)| ((*name).to_owned(), answers.clone())).collect()),
        asked: Mutex::default(),
        connected: Mutex::default(),
        receiver: world.receiver.address(),
    });
    world.test.app.webhook.set_network(Pretender(Arc::clone(&pretended)));
    let mut webhooks = HashMap::new();
    for (name, _) in &names {
        let url = format!("http://{name}:8080/hook");
        webhooks.insert(*name, world.webhook(json!({"url": url, "events": ["session.opened"]})).await);
    }
    let world = world.started().await;
    world.session().await;
    for (name, error) in [
        ("inside.example", "an address that is not public"),
        ("metadata.example", "an address that is not public"),
        ("mixed.example", "an address that is not public"),
        ("mapped.example", "an address that is not public"),
        ("nat64.example", "an address that is not public"),
        ("empty.example", "has no address"),
    ] {
        let all = world.until(&webhooks[name], |all| all.first().is_some_and(|one| one["error"].is_string())).await;
        assert!(all[0]["error"].as_str().unwrap().contains(error), "{name}: {}", all[0]);
    }
    for name in ["good.example", "rebinds.example"] {
        world.until(&webhooks[name], |all| all.first().is_some_and(|one| one["state"] == "succeeded")).await;
    }
    let got = world.receiver.got();
    let mut hosts: Vec<&str> = got.iter().map(|got| got.host.as_str()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["good.example:8080", "rebinds.example:8080"], "under the name that was asked for");
    let expected: SocketAddr = format!("{public}:8080").parse().unwrap();
    assert_eq!(*pretended.connected.lock().unwrap(), [expected, expected], "to the address that was looked at");
    let asked = pretended.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|name| *name == "rebinds.example").count(), 1, "which is looked up once");

    // The next time it leads inside, and is refused then.
    world.session().await;
    let all = world.until(&webhooks["rebinds.example"], |all| all.len() == 2 && all[0]["error"].is_string()).await;
    assert!(all[0]["error"].as_str().unwrap().contains("not public"));
    assert_eq!(pretended.connected.lock().unwrap().iter().filter(|address| **address != expected).count(), 0);
    for bad in [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/",
        "http://10.0.0.1:9000/",
        "ftp://good.example/",
    ] {
        let refused = world.test.post(&world.owner, "/tenants/acme/webhooks", json!({"url": bad})).await.expect(400);
        assert_eq!(refused.json["field"], "url", "{bad}");
    }
}

/// A certificate of `name` that nobody has signed, and its key.
fn certificate(name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = std::process::Command::new(parts::find("openssl"))
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=receiver", "-addext", &format!("subjectAltName=DNS:{name}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "/dev/stdout", "-out", "/dev/stdout"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (CertificateDer::from_pem_slice(&made.stdout).unwrap(), PrivateKeyDer::from_pem_slice(&made.stdout).unwrap())
}

/// Takes whatever comes over TLS, one after the other. Returns where, and the names that were asked for.
fn receiver_over_tls(config: ServerConfig) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, config, names) = (listener.local_addr().unwrap(), Arc::new(config), Arc::new(Mutex::default()));
    let asked: Arc<Mutex<Vec<String>>> = Arc::clone(&names);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream.unwrap());
            // Whoever does not trust us goes away here.
            let Ok(1..) = stream.read(&mut [0; 16 * 1024]) else { continue };
            asked.lock().unwrap().push(stream.conn.server_name().unwrap_or_default().to_owned());
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
    });
    (address, names)
}

#[tokio::test]
async fn over_tls_only_the_name_that_was_asked_for_will_do() {
    let world = World::configured(|_| {}).await;
    let (certificate, key) = certificate("hooks.example");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    world.test.app.webhook.trust(roots).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let (receiver, asked) = receiver_over_tls(config);
    let public: IpAddr = "93.184.216.34".parse().unwrap();
    let names = ["hooks.example", "other.example"].map(|name| (name.to_owned(), vec![vec![public]]));
    let (pretended, connected) = (Mutex::default(), Mutex::default());
    let pretended = Pretended { names: Mutex::new(names.into()), asked: pretended, connected, receiver };
    world.test.app.webhook.set_network(Pretender(Arc::new(pretended)));
    let mut webhooks = Vec::new();
    for name in ["hooks.example", "other.example"] {
        let url = format!("https://{name}/hook");
        webhooks.push(world.webhook(json!({"url": url, "events": ["session.opened"]})).await);
    }
    let world = world.started().await;
    world.session().await;
    world.until(&webhooks[0], |all| all.first().is_some_and(|one| one["state"] == "succeeded")).await;
    let all = world.until(&webhooks[1], |all| all.first().is_some_and(|one| one["error"].is_string())).await;
    assert!(all[0]["error"].as_str().unwrap().contains("certificate"), "{}", all[0]);
    assert_eq!(*asked.lock().unwrap(), ["hooks.example"], "nothing was said to the other");
}
