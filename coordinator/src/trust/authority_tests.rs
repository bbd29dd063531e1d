//! What the authority signs, and what it does not.

use marquee_domain::ids::WorkerId;
use uuid::Uuid;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;
use crate::certificate::{Ours, name, name_of_worker, ours};
use crate::env::{Clock as _, SystemClock};

fn authority() -> (tempfile::TempDir, Files, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::of(folder.path());
    fs::create_dir(&files.folder).unwrap();
    let authority = Authority::create(&files, SystemClock.now()).unwrap();
    (folder, files, authority)
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .unwrap()
        .into_owned()
}

#[test]
fn a_worker_gets_its_own_name_whatever_it_asks_for() {
    let (_folder, _, authority) = authority();
    let key = KeyPair::generate().unwrap();
    let mut asked = CertificateParams::new(["coordinator.marquee.internal".to_owned()]).unwrap();
    asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    asked.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    asked.distinguished_name.push(DnType::CommonName, "head-1");
    let csr = asked.serialize_request(&key).unwrap();
    let request = Request::read(csr.der()).unwrap();
    let (cluster, worker) = (Uuid::from_u128(1), WorkerId(Uuid::from_u128(2)));
    let now = SystemClock.now();
    let uri = name_of_worker(cluster, worker);
    let (pem, until) = authority
        .certify_worker(&request, uri, "gpu-01", now, WORKER_LIFE)
        .unwrap();
    assert_eq!(until, now + TimeDelta::days(30));
    let der = der(&pem);
    assert_eq!(ours(&name(&der)), Some(Ours::Worker(worker)));
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert!(!certificate.is_ca());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let names = certificate
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value;
    assert_eq!(names.general_names.len(), 1, "{names:?}");
    assert!(!format!("{:?}", certificate.subject()).contains("head-1"));
    let read = certificate::read(&pem).unwrap().remove(0);
    assert_eq!(
        read.not_before.timestamp(),
        (now - TimeDelta::minutes(10)).timestamp()
    );
    // The key is the one that was brought, and the authority signed.
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    assert_eq!(certificate.public_key().raw, public);
    let (_, signer) = X509Certificate::from_der(&authority.bundle.signing).unwrap();
    assert!(
        certificate
            .verify_signature(Some(signer.public_key()))
            .is_ok()
    );
}

#[test]
fn requests_that_are_none_or_of_other_keys_are_refused() {
    let refused = |der: &[u8]| Request::read(der).unwrap_err();
    for garbage in [&b""[..], b"garbage", &[0x30, 0x82, 0xff, 0xff], &[0; 4_000]] {
        assert!(matches!(refused(garbage), BadRequest::Unreadable(_)));
    }
    assert_eq!(refused(&[0x30; 100_000]), BadRequest::Long(100_000));
    let rsa = include_bytes!("../../tests/fixtures/rsa1024.csr");
    let p384 = include_bytes!("../../tests/fixtures/p384.csr");
    for other in [&rsa[..], &p384[..]] {
        let why = refused(other).to_string();
        assert!(why.contains("P-256") || why.contains("signature"), "{why}");
    }
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = CertificateParams::new([]).unwrap();
    let csr = params.serialize_request(&ed25519).unwrap();
    assert!(matches!(refused(csr.der()), BadRequest::Key(_)));
    // One whose signature is not its key's: somebody else's key, taken from a certificate.
    let mut forged = params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(matches!(refused(&forged), BadRequest::Unreadable(_)));
}

#[test]
fn it_signs_no_further_authority_and_its_server_shows_it() {
    let (_folder, files, authority) = authority();
    let (_, certificate) = X509Certificate::from_der(&authority.bundle.signing).unwrap();
    let constraints = certificate.basic_constraints().unwrap().unwrap().value;
    assert!(constraints.ca && constraints.path_len_constraint == Some(0));
    let names = ["head-1".to_owned(), "10.0.0.7".to_owned(), "::1".to_owned()];
    let now = SystemClock.now();
    let (pem, key) = authority.certify_server(&names, now, SERVER_LIFE).unwrap();
    let shown: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(Result::unwrap)
        .collect();
    assert_eq!(shown.len(), 2);
    assert_eq!(certificate::pin(&shown[1]), Some(authority.bundle.pin));
    assert_ne!(certificate::pin(&shown[0]), Some(authority.bundle.pin));
    write_server(&files, &pem, &key).unwrap();
    assert_eq!(names_of(&files), names);
    // It is made anew when a third of its time is left, under the same names.
    let renew_at = |after, life| renew_server(&files, now + after, life).unwrap().is_new;
    assert!(!renew_at(TimeDelta::days(59), SERVER_LIFE));
    assert!(renew_at(TimeDelta::days(61), SERVER_LIFE));
    assert_eq!(names_of(&files), names);
    assert_ne!(fs::read_to_string(files.server()).unwrap(), pem);

    // One that is good for a minute is due in time, too, and not as soon as it is made.
    let minute = TimeDelta::minutes(1);
    let (pem, key) = authority.certify_server(&names, now, minute).unwrap();
    write_server(&files, &pem, &key).unwrap();
    assert!(!renew_at(TimeDelta::seconds(20), minute));
    assert!(renew_at(TimeDelta::seconds(40), minute));
}

#[test]
fn a_key_that_is_missing_open_or_anothers_is_said() {
    let (_folder, files, _) = authority();
    let refused = || format!("{:#}", Authority::open(&files).unwrap_err());
    let other = KeyPair::generate().unwrap().serialize_pem();
    write_secret(&files.ca_key(), &other).unwrap();
    assert!(refused().contains("is not the key of"), "{}", refused());
    fs::set_permissions(files.ca_key(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused().contains("mode 0640"), "{}", refused());
    assert!(check_modes(&files).is_err());
    fs::remove_file(files.ca_key()).unwrap();
    assert!(refused().contains("from a backup"), "{}", refused());
    assert!(check_modes(&files).is_ok(), "without it the others go on");
}
