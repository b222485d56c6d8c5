//! `/metrics`, `/healthz`, `/readyz`, `/status.json` and the page of a real daemon, asked by Python's HTTP client.

use std::collections::{HashMap, HashSet};

use crossfade_harness::{PgVersion, Postgres, Proxy, Running, python, tls_folder};
use serde_json::Value;

use crate::common::{PATIENCE, code};
use crate::daemon::Place;

/// Prints status, content type and body. Arguments: URL, then `name=value` headers, `ca=…`, `cert=…`, `method=…`.
const GET: &str = r#"
import http.client, ssl, sys, urllib.request, urllib.error
url, headers, context, method = sys.argv[1], {}, None, 'GET'
more = dict(a.split('=', 1) for a in sys.argv[2:])
method = more.pop('method', 'GET')
if 'ca' in more:
    context = ssl.create_default_context(cafile=more.pop('ca'))
    if 'cert' in more:
        context.load_cert_chain(more.pop('cert'))
request = urllib.request.Request(url, headers=more, method=method)
try:
    answer = urllib.request.urlopen(request, timeout=60, context=context)
except urllib.error.HTTPError as e:
    answer = e
except (OSError, http.client.HTTPException) as e:
    print('refused', e)
    sys.exit()
print(answer.status if hasattr(answer, 'status') else answer.code, answer.headers.get('content-type'))
sys.stdout.write(answer.read().decode())
"#;

struct Got {
    head: String,
    body: String,
}

fn get(url: &str, more: &[&str]) -> Got {
    let out = python(GET, &[&[url], more].concat());
    let (head, body) = out.split_once('\n').expect("a line");
    Got { head: head.to_owned(), body: body.to_owned() }
}

/// Where a daemon serves, by its log.
fn address(daemon: &mut Running) -> String {
    daemon.wait_for("serving metrics and the status page", PATIENCE);
    let log = daemon.stderr();
    let line = log.lines().find(|l| l.contains("serving metrics")).expect("the line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    line["address"].as_str().expect("an address").to_owned()
}

fn stop(daemon: Running) {
    daemon.signal("TERM");
    let ended = daemon.wait(PATIENCE);
    assert_eq!(code(&ended), 0, "{}", ended.stderr);
}

/// One sample: its labels in order, and its value.
type Samples = HashMap<String, Vec<(Vec<(String, String)>, f64)>>;

/// Reads the exposition format strictly, as Prometheus' documentation has it.
fn exposition(text: &str) -> (HashMap<String, String>, Samples) {
    let (mut kinds, mut samples) = (HashMap::new(), Samples::new());
    let (mut current, mut seen) = (String::new(), HashSet::new());
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(!help.is_empty() && !kinds.contains_key(name), "{line}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()), "{line}");
            name.clone_into(&mut current);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, current, "HELP and TYPE belong together");
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            kinds.insert(name.to_owned(), kind.to_owned());
        } else {
            let (name, rest) = line.split_once('{').expect("labels");
            let (labels, value) = rest.rsplit_once("} ").expect("a value");
            let suffixes: &[&str] = if kinds[&current] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|s| name == format!("{current}{s}")), "{line} under {current}");
            assert!(seen.insert((name.to_owned(), labels.to_owned())), "twice: {line}");
            let labels = labels.split("\",").map(|l| {
                let (k, v) = l.trim_end_matches('"').split_once("=\"").expect("a label");
                (k.to_owned(), v.to_owned())
            });
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            samples.entry(name.to_owned()).or_default().push((labels.collect(), value));
        }
    }
    for (name, _) in kinds.iter().filter(|(_, kind)| *kind == "histogram") {
        let buckets = &samples[&format!("{name}_bucket")];
        let bound = |labels: &[(String, String)]| match labels.last().map(|(k, v)| (k.as_str(), v.as_str())) {
            Some(("le", "+Inf")) => f64::INFINITY,
            Some(("le", le)) => le.parse().expect("a bound"),
            other => panic!("{other:?}"),
        };
        for pair in buckets.windows(2).filter(|p| bound(&p[0].0) < f64::INFINITY) {
            assert!(bound(&pair[0].0) < bound(&pair[1].0) && pair[0].1 <= pair[1].1, "{pair:?}");
        }
        let whole = buckets.iter().filter(|(l, _)| bound(l) == f64::INFINITY).map(|(_, v)| *v);
        let counts = samples[&format!("{name}_count")].iter().map(|(_, v)| *v);
        assert!(whole.eq(counts), "{name}");
    }
    (kinds, samples)
}

/// Every tag is closed by its own, every attribute quoted, every `&` a reference.
fn well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = page.strip_prefix("<!DOCTYPE html>\n").expect("a document type");
    for (i, piece) in body.split('<').enumerate() {
        let (tag, text) = if i == 0 { ("", piece) } else { piece.split_once('>').expect("a tag ends") };
        assert!(!text.contains('>') || open.last() == Some(&"style") || tag == "style", "{piece}");
        for reference in text.split('&').skip(1) {
            assert!(["lt;", "gt;", "amp;", "quot;"].iter().any(|r| reference.starts_with(r)), "{text}");
        }
        if tag.is_empty() {
            continue;
        }
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{piece}"),
            None => {
                let name = tag.split([' ', '/']).next().expect("a name");
                assert!(tag.matches('"').count() % 2 == 0 && !tag.contains('\''), "{tag}");
                assert!(tag.matches("=\"").count() * 2 == tag.matches('"').count(), "{tag}");
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn metrics_health_and_the_page_tell_of_the_pipeline() {
    let place = Place::new("http");
    // A table whose name would be markup.
    place.sql("CREATE TABLE \"<b>&amp;\" (id INTEGER PRIMARY KEY); INSERT INTO \"<b>&amp;\" VALUES (1);");
    place.configure("[http]\nlisten = \"127.0.0.1:0\"");
    let mut daemon = place.command("run", &[]).start();
    let at = format!("http://{}", address(&mut daemon));
    let caught_up = place.command("catch-up", &[]).start().wait(PATIENCE);
    assert_eq!(code(&caught_up), 0, "{}", caught_up.stderr);
    place.sql("INSERT INTO item VALUES (3, 'three'), (4, 'four');");
    assert_eq!(code(&place.command("catch-up", &[]).start().wait(PATIENCE)), 0);
    let proof = place.command("verify", &[]).start().wait(PATIENCE);
    assert_eq!(code(&proof), 0, "{}", proof.stdout);

    let metrics = get(&format!("{at}/metrics"), &[]);
    assert_eq!(metrics.head, "200 text/plain; version=0.0.4; charset=utf-8");
    let (kinds, samples) = exposition(&metrics.body);
    let value = |name: &str| samples.get(name).unwrap_or_else(|| panic!("no {name}:\n{}", metrics.body))[0].1;
    assert_eq!(value("crossfade_rows_applied_total"), 2.0);
    assert_eq!(value("crossfade_batch_rows_sum"), 2.0);
    assert_eq!(value("crossfade_streaming"), 1.0);
    assert_eq!(value("crossfade_healthy"), 1.0);
    assert_eq!(value("crossfade_verify_differences"), 0.0);
    assert!(value("crossfade_last_verify_success_timestamp_seconds") > value("process_start_time_seconds"));
    assert!(
        value("crossfade_last_commit_timestamp_seconds") > 1.6e9
            && value("crossfade_commit_duration_seconds_sum") > 0.0
    );
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert_eq!(kinds["crossfade_delivery_seconds"], "histogram");
    let up: f64 = samples["crossfade_state"].iter().map(|(_, v)| v).sum();
    assert_eq!((samples["crossfade_state"].len(), up), (5, 1.0));

    for probe in ["healthz", "readyz"] {
        let got = get(&format!("{at}/{probe}"), &[]);
        assert_eq!((got.head.as_str(), got.body.as_str()), ("200 text/plain; charset=utf-8", "ok\n"));
    }
    let status: Value = serde_json::from_str(&get(&format!("{at}/status.json"), &[]).body).expect("JSON");
    assert_eq!(status["pid"], daemon.pid());
    let page = get(&format!("{at}/"), &[]);
    assert_eq!(page.head, "200 text/html; charset=utf-8");
    well_formed(&page.body);
    assert!(page.body.contains("&lt;b&gt;&amp;amp;") && page.body.matches(">equal<").count() == 2, "{}", page.body);
    assert!(page.body.contains("<noscript><meta http-equiv=\"refresh\""));
    assert!(get(&format!("{at}/live.js"), &[]).body.contains("fetch(\"/\""));

    assert!(get(&format!("{at}/secret"), &[]).head.starts_with("404 "));
    assert!(get(&format!("{at}/"), &["method=POST"]).head.starts_with("405 "));
    // A name of somebody else's that resolves to this machine.
    assert!(get(&format!("{at}/"), &["Host=evil.example"]).head.starts_with("421 "));
    stop(daemon);
}

#[test]
fn a_pipeline_that_cannot_go_on_is_not_ready_and_says_why() {
    let place = Place::new("unready");
    let database = Postgres::shared(PgVersion::V15).fresh_database("unready");
    let proxy = Proxy::before(database.client().port());
    place.configure_to(&proxy.through(&database.url()), "[http]\nlisten = \"127.0.0.1:0\"");
    let mut daemon = place.command("run", &[]).start();
    let at = format!("http://{}", address(&mut daemon));
    assert_eq!(code(&place.command("catch-up", &[]).start().wait(PATIENCE)), 0);
    proxy.refuse(true);
    proxy.cut();
    place.sql("INSERT INTO item VALUES (3, 'three')");
    daemon.wait_for("trying again", PATIENCE);
    let ready = get(&format!("{at}/readyz"), &[]);
    assert!(ready.head.starts_with("503 "), "{} {}", ready.head, ready.body);
    assert!(get(&format!("{at}/healthz"), &[]).head.starts_with("200 "), "waiting is not hanging");
    let (_, samples) = exposition(&get(&format!("{at}/metrics"), &[]).body);
    assert!(samples["crossfade_restarts_total"][0].1 >= 1.0);
    proxy.refuse(false);
    assert_eq!(code(&place.command("catch-up", &[]).start().wait(PATIENCE)), 0);
    assert!(get(&format!("{at}/readyz"), &[]).head.starts_with("200 "));
    stop(daemon);
}

#[test]
fn a_token_and_certificates_are_asked_for_and_renewed_by_a_reload() {
    let place = Place::new("locked");
    let tls = tls_folder();
    let tls = |name: &str| tls.join(name).display().to_string();
    let token = place.path("token");
    std::fs::write(&token, "first\n").expect("a token");
    let http = format!(
        "[http]\nlisten = \"0.0.0.0:0\"\ntoken_file = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n",
        token.display(),
        tls("server.pem"),
        tls("server.key")
    );
    place.configure(&http);
    let mut daemon = place.command("run", &[]).start();
    let port = address(&mut daemon).rsplit(':').next().expect("a port").to_owned();
    let (at, ca) = (format!("https://localhost:{port}"), format!("ca={}", tls("ca.pem")));
    let metrics = format!("{at}/metrics");
    assert!(get(&metrics, &[&ca, "Authorization=Bearer first"]).head.starts_with("200 "));
    assert!(get(&metrics, &[&ca, "Authorization=Basic dTpmaXJzdA=="]).head.starts_with("200 "), "a browser's way");
    let refused = get(&metrics, &[&ca]);
    assert!(refused.head.starts_with("401 ") && !refused.body.contains("crossfade_"), "{}", refused.head);
    assert!(get(&metrics, &[&ca, "Authorization=Bearer wrong"]).head.starts_with("401 "));
    assert!(get(&format!("{at}/healthz"), &[&ca]).head.starts_with("200 "), "probes have no token");
    assert!(get(&format!("http://localhost:{port}/metrics"), &[]).head.starts_with("refused"), "no plain text");
    assert!(get(&metrics, &[&format!("ca={}", tls("stranger.pem"))]).head.starts_with("refused"));

    // Another token, and clients' certificates.
    std::fs::write(&token, "second\n").expect("a token");
    place.configure(&format!("{http}client_ca = \"{}\"", tls("ca.pem")));
    daemon.signal("HUP");
    daemon.wait_for("the configuration is reloaded", PATIENCE);
    assert!(get(&metrics, &[&ca, "Authorization=Bearer second"]).head.starts_with("refused"), "no certificate");
    let client = client_certificate(&place, &tls("ca.pem"), &tls("ca.key"));
    let cert = format!("cert={client}");
    assert!(get(&metrics, &[&ca, &cert, "Authorization=Bearer second"]).head.starts_with("200 "));
    assert!(get(&metrics, &[&ca, &cert, "Authorization=Bearer first"]).head.starts_with("401 "));

    // Files that cannot be read change nothing.
    place.configure(&http.replace("server.key", "no.key"));
    daemon.signal("HUP");
    daemon.wait_for("[http] key: no PEM can be read", PATIENCE);
    assert!(get(&metrics, &[&ca, &cert, "Authorization=Bearer second"]).head.starts_with("200 "));
    place.configure(&http);
    let log = daemon.stderr();
    assert!(!log.contains("first") && !log.contains("second"), "{log}");
    stop(daemon);
}

/// A certificate and its key in one file.
fn client_certificate(place: &Place, ca: &str, ca_key: &str) -> String {
    let openssl = |args: &[&str]| {
        let output =
            std::process::Command::new("openssl").args(args).current_dir(&place.folder).output().expect("openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    openssl(&["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "c.key", "-out", "c.csr", "-subj", "/CN=prometheus"]);
    std::fs::write(place.path("c.cnf"), "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n").expect("a file");
    let sign = ["x509", "-req", "-in", "c.csr", "-CA", ca, "-CAkey", ca_key, "-set_serial", "7", "-days", "30"];
    openssl(&[&sign[..], &["-extfile", "c.cnf", "-out", "c.crt"]].concat());
    let read = |name: &str| std::fs::read_to_string(place.path(name)).expect("a file");
    std::fs::write(place.path("client.pem"), format!("{}{}", read("c.crt"), read("c.key"))).expect("a file");
    place.path("client.pem").display().to_string()
}

#[test]
fn an_address_that_is_taken_is_refused_with_a_hint() {
    let place = Place::new("taken");
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("an address").port();
    place.configure(&format!("[http]\nlisten = \"127.0.0.1:{port}\""));
    let ended = place.command("run", &[]).start().wait(PATIENCE);
    assert_eq!(code(&ended), 78, "{}", ended.stderr);
    assert!(ended.stderr.contains("[http] listen") && ended.stderr.contains("choose another port"), "{}", ended.stderr);
}
