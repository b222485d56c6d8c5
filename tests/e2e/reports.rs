//! Reports that leave the machine: by mail to a real SMTP server with TLS and login, and by webhook to a real HTTPS server.

use crossfade_harness::{Kind, Listener, python, tls_folder};

use crate::common::{code, folder};
use crate::ledger::Kept;

/// The subject, and for each part of a message its type and whether it tells of the pipeline.
fn read(message: &serde_json::Value) -> String {
    let script = "import email, email.policy, sys\n\
                  m = email.message_from_string(sys.argv[1], policy=email.policy.default)\n\
                  print(m['subject'])\n\
                  print(m['auto-submitted'], m.get_content_type(), m['message-id'])\n\
                  [print(p.get_content_type(), 'there is no ledger' in p.get_content()) for p in m.iter_parts()]\n";
    python(script, &[message["text"].as_str().expect("a text")])
}

fn mail(scheme: &str, port: u16, to: &str) -> String {
    let ca = tls_folder().join("ca.pem");
    format!(
        "[mail]\nserver = \"{scheme}://mailer@127.0.0.1:{port}\"\nfrom = \"Crossfade <crossfade@example.org>\"\nto = [\"{to}\"]\n\
         password_env = \"MAIL_PASSWORD\"\nca_file = \"{}\"",
        ca.display()
    )
}

/// A pipeline whose databases are away, which its reports say: nothing else is needed to send them.
fn away(folder: &std::path::Path, more: &str) -> Kept {
    Kept::new(folder, "mysql://root@127.0.0.1:1/shop", "postgres://127.0.0.1:1/shop", more)
}

fn waiting(kept: &Kept, extension: &str) -> usize {
    let spool = kept.state.join(format!("{}.spool", kept.name));
    let files = std::fs::read_dir(spool).into_iter().flatten().flatten();
    files.filter(|f| f.path().extension().is_some_and(|e| e == extension)).count()
}

#[test]
fn mail_waits_while_the_server_is_down_and_arrives_in_order() {
    let (_folder, path) = folder();
    let mut server = Listener::new(Kind::Smtps);
    let kept = away(&path, &mail("smtps", server.port(), "dba@example.org"));
    let first = kept.ended("report", &["--mail"]);
    assert!(code(&first) == 3 && first.stderr.contains("none is lost"), "{}{}", first.stdout, first.stderr);
    assert_eq!(waiting(&kept, "json"), 1);
    server.start();
    let second = kept.ended("report", &["--mail", "--since", "1d"]);
    assert!(code(&second) == 3 && second.stderr.is_empty(), "{}", second.stderr);
    let arrived = server.received();
    assert_eq!((arrived.len(), waiting(&kept, "json")), (2, 0));
    assert!(arrived[0]["text"] != arrived[1]["text"] && arrived[0]["to"][0] == "dba@example.org", "{arrived:?}");
    let texts: Vec<String> = arrived.iter().map(read).collect();
    for text in &texts {
        assert!(text.starts_with(&format!("Crossfade UNKNOWN: {}: nothing compared", kept.name)), "{text}");
        assert!(text.contains("auto-generated multipart/alternative <crossfade."), "{text}");
        assert!(text.ends_with("text/plain True\ntext/html True\n"), "{text}");
    }
    let moment = |text: &String| text.split('.').nth(2).map(str::to_owned);
    assert!(moment(&texts[0]) < moment(&texts[1]), "{texts:?}");
}

#[test]
fn mail_by_starttls_with_a_wrong_password_a_stranger_and_a_receiver_that_is_refused() {
    let (_folder, path) = folder();
    let mut server = Listener::new(Kind::StartTls);
    server.start();
    let kept = away(&path, &mail("smtp", server.port(), "dba@example.org"));
    let wrong = kept.command("report", &["--mail"]).env("MAIL_PASSWORD", "guess").start().wait(crate::common::PATIENCE);
    assert!(wrong.stderr.contains("none is lost") && wrong.stderr.contains("535"), "{}", wrong.stderr);
    // A server whose certificate nobody of ours signed learns neither the password nor the report.
    let stranger = mail("smtp", server.port(), "dba@example.org").replace("ca.pem", "stranger.pem");
    let unknown = away(&path, &stranger).ended("report", &["--mail"]);
    assert!(unknown.stderr.contains("none is lost") && unknown.stderr.contains("certificate"), "{}", unknown.stderr);
    assert_eq!((server.received().len(), waiting(&kept, "json")), (0, 2));

    // Refused for good, a message does not hold up those behind it.
    let refused = away(&path, &mail("smtp", server.port(), "nobody@example.org")).ended("report", &["--mail"]);
    assert!(refused.stderr.contains("no such user") && refused.stderr.contains("put aside"), "{}", refused.stderr);
    assert_eq!((server.received().len(), waiting(&kept, "json"), waiting(&kept, "refused")), (2, 0, 1));
}

#[test]
fn a_webhook_is_told_of_each_change_once() {
    let (_folder, path) = folder();
    let mut server = Listener::new(Kind::Https);
    let ca = tls_folder().join("ca.pem");
    let hook = format!(
        "[webhook]\nurl = \"https://127.0.0.1:{}/hook\"\npassword_env = \"MAIL_PASSWORD\"\nca_file = \"{}\"",
        server.port(),
        ca.display()
    );
    let kept = away(&path, &hook);
    let down = kept.ended("report", &[]);
    assert!(code(&down) == 3 && down.stderr.contains("the webhook at 127.0.0.1 was not told"), "{}", down.stderr);
    server.start();
    for _ in 0..2 {
        let told = kept.ended("report", &[]);
        assert!(code(&told) == 3 && told.stderr.is_empty(), "{}", told.stderr);
    }
    let received = server.received();
    assert_eq!(received.len(), 1, "{received:?}");
    let one = &received[0];
    assert_eq!((&one["path"], &one["authorization"]), (&"/hook".into(), &"Bearer secret".into()));
    assert_eq!((&one["body"]["verdict"], &one["body"]["before"]), (&"unknown".into(), &serde_json::Value::Null));
    assert_eq!(one["body"]["pipeline"], kept.name.as_str());
}
