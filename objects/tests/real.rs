//! Against moto, which is S3 in memory.

use bytes::Bytes;
use futures::TryStreamExt as _;
use marquee_objects::testing::{SECRET, Server, ask, place, write_credentials};
use marquee_objects::{Addressing, Kind, Store};

/// Servers want 5 MiB in each part but the last.
const PART: usize = 5 * 1024 * 1024;

#[tokio::test]
async fn a_bucket_does_all_that_is_asked_of_it() {
    let Some(server) = Server::start("a_bucket_does_all_that_is_asked_of_it").await else {
        return;
    };
    server.make_bucket("films").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = place(&server.address, "films", folder.path());
    let store = Store::open(&place).unwrap();
    let probed = store.probe().await.unwrap();
    assert_eq!(probed.warnings, Vec::<String>::new());
    let left: Vec<_> = store.list("probe").try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");

    // One by one.
    assert_eq!(store.head("a/x").await.unwrap(), None);
    assert_eq!(store.get("a/x").await.unwrap(), None);
    let two = vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")];
    store.put("a/x", two).await.unwrap();
    let (bytes, etag) = store.get("a/x").await.unwrap().unwrap();
    assert_eq!(&*bytes, b"abcdef");
    let found = store.head("a/x").await.unwrap().unwrap();
    assert_eq!((found.size_bytes, &found.etag), (6, &etag));
    let part = store.get_range("a/x", 2..5, &etag).await.unwrap();
    assert_eq!(part.as_deref(), Some(b"cde" as &[u8]));
    assert!(store.create("a/y", Bytes::from_static(b"1")).await.unwrap());
    assert!(!store.create("a/y", Bytes::from_static(b"2")).await.unwrap());
    assert_eq!(&*store.get("a/y").await.unwrap().unwrap().0, b"1");
    // Written anew it is another object, of which nobody gets a piece for the first one's.
    store
        .put("a/x", vec![Bytes::from_static(b"ABCDEF")])
        .await
        .unwrap();
    assert_eq!(store.get_range("a/x", 2..5, &etag).await.unwrap(), None);
    let mut keys: Vec<String> = store
        .list("a")
        .map_ok(|listed| listed.key)
        .try_collect()
        .await
        .unwrap();
    keys.sort();
    assert_eq!(keys, ["a/x", "a/y"], "without the prefix");
    store
        .delete(vec!["a/x".into(), "a/never".into()])
        .await
        .unwrap();
    assert_eq!(store.head("a/x").await.unwrap(), None);

    // In parts, and the list of what is not finished.
    let parts = [vec![1; PART], vec![2; PART], vec![3; 7]];
    let upload = store.begin("blobs/aa/big").await.unwrap();
    let left = store.begin("blobs/bb/left").await.unwrap();
    let elsewhere = store.begin("other/left").await.unwrap();
    let mut tags = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let chunks = vec![Bytes::from(part.clone())];
        let tag = store.put_part("blobs/aa/big", &upload, index, chunks).await;
        tags.push(tag.unwrap().unwrap());
    }
    let mut unfinished = store.unfinished("blobs").await.unwrap();
    unfinished.sort_by(|one, other| one.key.cmp(&other.key));
    let names: Vec<_> = unfinished
        .iter()
        .map(|one| (&*one.key, &*one.upload))
        .collect();
    assert_eq!(
        names,
        [("blobs/aa/big", &*upload), ("blobs/bb/left", &*left)]
    );
    assert!(store.is_unfinished("blobs/aa/big", &upload).await.unwrap());
    assert!(!store.is_unfinished("blobs/aa/big", &left).await.unwrap());
    assert!(
        store
            .complete("blobs/aa/big", &upload, &tags)
            .await
            .unwrap()
    );
    let found = store.head("blobs/aa/big").await.unwrap().unwrap();
    assert_eq!(found.size_bytes, 2 * PART as u64 + 7);
    let size = found.size_bytes;
    let end = store
        .get_range("blobs/aa/big", size - 9..size, &found.etag)
        .await
        .unwrap();
    assert_eq!(
        end.as_deref(),
        Some([2_u8, 2, 3, 3, 3, 3, 3, 3, 3].as_slice())
    );
    for (key, upload) in [("blobs/bb/left", &left), ("other/left", &elsewhere)] {
        store.abort(key, upload).await.unwrap();
        store.abort(key, upload).await.unwrap();
    }
    assert!(store.unfinished("blobs").await.unwrap().is_empty());
    // Another bucket is not there.
    let mut other = place.clone();
    other.bucket = "nowhere".into();
    let trouble = Store::open(&other).unwrap().probe().await.unwrap_err();
    assert_eq!(trouble.kind, Kind::Refused);
    assert!(
        trouble.to_string().contains("correct s3.bucket"),
        "{trouble}"
    );
    // The bucket in the host's name: nobody answers to that here, which is said, and is no answer about an object.
    other.addressing = Addressing::Virtual;
    other.endpoint = Some("http://localhost:1".into());
    let trouble = Store::open(&other).unwrap().head("x").await.unwrap_err();
    assert_eq!(trouble.kind, Kind::Away, "{trouble}");

    signatures_are_checked(&server, store, folder.path()).await;
}

/// From here on the server lets in nobody whose signature is wrong.
async fn signatures_are_checked(server: &Server, store: Store, folder: &std::path::Path) {
    let field = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>")).unwrap();
        rest.split_once("</").unwrap().0.to_owned()
    };
    let iam = async |query: &str| {
        let path = format!("/?Version=2010-05-08&{query}");
        let answer = ask_iam(&server.address, &path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    };
    iam("Action=CreateUser&UserName=marquee").await;
    let made = iam("Action=CreateAccessKey&UserName=marquee").await;
    let (id, secret) = (field(&made, "AccessKeyId"), field(&made, "SecretAccessKey"));
    let reset = ask(&server.address, "POST", "/moto-api/reset-auth", "0")
        .await
        .unwrap();
    assert!(reset.starts_with("HTTP/1.1 200"), "{reset}");
    let refused = async |says: &str| {
        let trouble = store.get("a/y").await.unwrap_err();
        let text = trouble.to_string();
        assert_eq!(trouble.kind, Kind::Refused, "{text}");
        assert!(text.contains(says), "{text}");
        assert!(!text.contains(SECRET) && !text.contains(&secret), "{text}");
    };
    // The key of before is nobody's.
    refused("does not know the access key").await;
    // New ones are read at once, without a new store.
    let _path = write_credentials(folder, &id, SECRET);
    refused("is not the one of its access key").await;
    let _path = write_credentials(folder, &id, &secret);
    refused("are not allowed to").await;
    let policy = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";
    let off = ask(&server.address, "POST", "/moto-api/reset-auth", "1000000")
        .await
        .unwrap();
    assert!(off.starts_with("HTTP/1.1 200"), "{off}");
    iam(&format!(
        "Action=PutUserPolicy&UserName=marquee&PolicyName=all&PolicyDocument={policy}"
    ))
    .await;
    let on = ask(&server.address, "POST", "/moto-api/reset-auth", "0")
        .await
        .unwrap();
    assert!(on.starts_with("HTTP/1.1 200"), "{on}");
    // All of it with signatures that somebody checks: also our own request for the list of uploads.
    let probed = store.probe().await.unwrap();
    assert_eq!(probed.warnings, Vec::<String>::new());
    assert!(!format!("{store:?}").contains(&secret));
}

async fn ask_iam(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: iam.amazonaws.com\r\nConnection: close\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/iam/aws4_request\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
