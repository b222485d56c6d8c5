//! The commit protocol over S3's API.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossfade_core::{Class, Exit, Item, Level, Op};
use crossfade_harness::{Bucket, S3, python};
use support::*;

/// Keys of a bucket, without the prefix.
fn keys(bucket: &Bucket) -> Vec<String> {
    let list = "import sys, boto3\n\
        s = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1', aws_access_key_id='test', \
        aws_secret_access_key='test')\n\
        for p in s.get_paginator('list_objects_v2').paginate(Bucket=sys.argv[2]):\n\
        \x20   for o in p.get('Contents', []): print(o['Key'].removeprefix('lake/raw/'))\n";
    python(list, &[&bucket.endpoint, &bucket.name]).lines().map(str::to_owned).collect()
}

#[test]
fn a_copy_and_a_stream_arrive_exactly() {
    let s3 = S3::shared();
    let bucket = s3.fresh_bucket("parquet");
    let runtime = runtime();
    let target = open(&s3_url(&bucket, &s3.endpoint()), &runtime);
    let table = table();
    let mut writer = target.open(&owner("here", std::process::id())).unwrap();
    // Enough for an upload in several parts.
    let wanted = fill(&*target, &mut *writer, &table, 200_000);
    assert_eq!(fingerprint(&*target, &table), wanted);
    drop(writer);

    let found = keys(&bucket);
    let files: Vec<&String> = found.iter().filter(|k| k.starts_with("shop/orders/")).collect();
    assert_eq!(files.len(), 3, "{found:?}");
    assert!(!found.iter().any(|k| k.contains("/stage/")), "{found:?}");
    let read = python(
        "import sys, pyarrow.fs as fs, pyarrow.dataset as ds\n\
         s = fs.S3FileSystem(endpoint_override=sys.argv[1], region='us-east-1', access_key='test', secret_key='test', \
         scheme='http')\n\
         print(ds.dataset(sys.argv[2] + '/lake/raw/shop/orders', filesystem=s).count_rows())\n",
        &[bucket.endpoint.as_str(), &bucket.name],
    );
    assert_eq!(read.trim(), "200005");

    let again = open(&s3_url(&bucket, &s3.endpoint()), &runtime);
    let writer = again.open(&owner("here", std::process::id())).unwrap();
    assert_eq!((writer.epoch(), writer.checkpoint().map(|c| c.seq)), (2, Some(2)));
    assert_eq!(fingerprint(&*again, &table), wanted);
}

#[test]
fn two_owners() {
    let s3 = S3::shared();
    let bucket = s3.fresh_bucket("owners");
    let runtime = runtime();
    let (first, second) =
        (open(&s3_url(&bucket, &s3.endpoint()), &runtime), open(&s3_url(&bucket, &s3.endpoint()), &runtime));
    let table = table();
    let (us, them) = (owner("here", std::process::id()), owner("there", 7));
    let mut writer = first.open(&us).unwrap();
    writer.prepare(std::slice::from_ref(&table)).unwrap();
    assert_eq!(second.owner("shop").unwrap(), Some(us.clone()));
    let refused = second.open(&them).err().unwrap();
    assert_eq!(*refused.class(), Class::Fatal(Exit::TryAgain));
    assert!(refused.to_string().contains(&us.to_string()), "{refused}");

    // The lease vanishes, so the second takes over while the first lives: the log keeps them apart.
    s3.request("DELETE", &format!("/{}/lake/raw/_crossfade/shop/owner.json", bucket.name), &[], b"");
    let mut new = second.open(&them).unwrap();
    let order = |n| vec![Item::Rows(rows(&table, &[(Op::Insert, n, 1)], &mut 0))];
    let fenced = commit(&mut *writer, order(1)).unwrap_err();
    assert_eq!(*fenced.class(), Class::Fatal(Exit::TryAgain), "{fenced:?}");
    assert!(fenced.to_string().contains("process 7 on there"), "{fenced}");
    commit(&mut *new, order(2)).unwrap();
    drop(writer);
    assert_eq!(second.owner("shop").unwrap(), Some(them), "the first gives up nothing that is not its own");
    drop(new);
    assert_eq!(second.owner("shop").unwrap(), None);
    assert_eq!(fingerprint(&*second, &table).rows, 1);
}

#[test]
fn a_process_of_this_machine_that_is_gone_owns_nothing() {
    let s3 = S3::shared();
    let bucket = s3.fresh_bucket("gone");
    let runtime = runtime();
    let target = open(&s3_url(&bucket, &s3.endpoint()), &runtime);
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    // Never dropped, as by a killed process.
    std::mem::forget(target.open(&owner("here", child.id())).unwrap());
    assert!(target.open(&owner("elsewhere", 1)).is_err(), "another machine cannot know");
    assert_eq!(target.open(&owner("here", std::process::id())).unwrap().epoch(), 2);
}

#[test]
fn check_tells_a_bucket_that_works_from_one_that_does_not() {
    let s3 = S3::shared();
    let bucket = s3.fresh_bucket("check");
    let runtime = runtime();
    let good = open(&s3_url(&bucket, &s3.endpoint()), &runtime).check("shop", &[table()]).unwrap();
    assert!(good.iter().all(|f| f.level == Level::Ok), "{good:?}");
    assert!(keys(&bucket).is_empty());
    let none = Bucket { name: "there-is-no-such-bucket".into(), ..bucket };
    let bad = open(&s3_url(&none, &s3.endpoint()), &runtime).check("shop", &[]).unwrap();
    assert_eq!(bad[0].level, Level::Critical, "{bad:?}");
    assert!(!bad[0].fix.is_empty());
}

/// Passes requests on, but drops the answer to the `nth` put (from 1) whose path holds `/log/`.
fn lossy(server: &str, nth: usize) -> (String, Arc<AtomicUsize>) {
    let server = server.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let puts = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&puts);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (server, puts) = (server.clone(), Arc::clone(&puts));
            std::thread::spawn(move || pass(client, TcpStream::connect(server).unwrap(), &puts, nth));
        }
    });
    (endpoint, seen)
}

fn pass(mut client: TcpStream, mut server: TcpStream, puts: &AtomicUsize, nth: usize) {
    let (mut back, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let drop_next = Arc::new(AtomicUsize::new(0));
    let dropping = Arc::clone(&drop_next);
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(n @ 1..) = back.read(&mut buffer) {
            if dropping.load(Ordering::SeqCst) == 1 {
                // The server has done it, and says so to nobody.
                let _closed = to_client.shutdown(Shutdown::Both);
                return;
            }
            if to_client.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    });
    let mut buffer = [0; 65536];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        let line = buffer[..n].split(|&b| b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        if line.starts_with("PUT ") && line.contains("/log/") && puts.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            drop_next.store(1, Ordering::SeqCst);
        }
        if server.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

#[test]
fn a_commit_whose_answer_is_lost_is_known_as_ours() {
    let s3 = S3::shared();
    let bucket = s3.fresh_bucket("lost");
    let runtime = runtime();
    let table = table();
    // Puts of the log: 1 takes the pipeline, 2 prepares, 3 plans, 4 and 6 are commits, 5 is the chunk.
    for nth in 1..=6 {
        let (endpoint, puts) = lossy(&s3.endpoint(), nth);
        let prefix = s3_url(&bucket, &endpoint).replace("lake/raw", &format!("lake/{nth}"));
        let target = open(&prefix, &runtime);
        let mut writer = target.open(&owner("here", std::process::id())).unwrap();
        let wanted = fill(&*target, &mut *writer, &table, 100);
        assert!(puts.load(Ordering::SeqCst) >= nth, "the answer to put {nth} was dropped");
        let records =
            keys(&bucket).iter().filter(|k| k.starts_with(&format!("lake/{nth}/_crossfade/shop/log/"))).count();
        assert_eq!(records, 6, "nothing is committed twice");
        assert_eq!(fingerprint(&*target, &table), wanted);
    }
}
