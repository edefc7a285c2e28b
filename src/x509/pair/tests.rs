use super::*;

/// A file that openssl wrote. `root` signed `int`, which signed `leaf-*`; `enc.*` are encrypted.
macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("../../../tests/it/certificates/", $name, ".pem"))
    };
}

const LEAF: &str = pem!("leaf-ec");
const INTERMEDIATE: &str = pem!("int");
const ROOT: &str = pem!("root");
const KEY: &str = pem!("ec.pk8");

fn put_together(certificate: &str, key: &str) -> Result<CertifiedKey, String> {
    let chain = Chain::parse(certificate.as_bytes()).map_err(|why| format!("crt {why}"))?;
    let keys = Keys::parse(key.as_bytes()).map_err(|why| format!("key {why}"))?;
    pair(chain, &keys).map_err(|error| match error {
        PairError::Certificate(why) => format!("crt {why}"),
        PairError::Key(why) => format!("key {why}"),
        PairError::Mismatch => "mismatch".to_owned(),
    })
}

#[test]
fn keys_of_every_form_are_read() {
    for (certificate, key) in [
        (LEAF, KEY),
        (LEAF, pem!("ec.sec1")),
        (pem!("leaf-rsa"), pem!("rsa.pk1")),
        (pem!("leaf-rsa"), pem!("rsa.pk8")),
        (pem!("leaf-ed"), pem!("ed.key")),
    ] {
        let pair = put_together(certificate, key).unwrap();
        assert!(pair.keys_match().is_ok() && pair.cert.len() == 1);
    }
}

#[test]
fn keys_and_certificates_may_share_a_file_in_any_order() {
    let in_order = put_together(&[LEAF, INTERMEDIATE, ROOT].concat(), KEY).unwrap().cert;
    let other = pem!("rsa.pk8");
    for parts in [
        [KEY, LEAF, INTERMEDIATE, ROOT],
        [ROOT, INTERMEDIATE, KEY, LEAF],
        [INTERMEDIATE, LEAF, ROOT, pem!("ec.sec1")],
        [LEAF, ROOT, INTERMEDIATE, KEY],
    ] {
        let file = parts.concat();
        assert!(put_together(&file, &file).unwrap().cert == in_order, "{file}");
        assert!(put_together(&file, &[other, &file].concat()).unwrap().cert == in_order, "the key that fits");
    }
    let unrelated = put_together(&[LEAF, pem!("cn"), INTERMEDIATE].concat(), KEY).unwrap().cert;
    assert_eq!((unrelated.len(), &unrelated[..2]), (3, &in_order[..2]), "what belongs to nothing comes last");
}

#[test]
fn what_cannot_be_used_is_named_with_what_to_do() {
    let damaged = INTERMEDIATE.replacen("MII", "MIA", 1);
    let cut: String = INTERMEDIATE
        .lines()
        .filter(|line| !line.starts_with("MII"))
        .map(|line| format!("{line}\n"))
        .collect();
    let glued = format!("{}{INTERMEDIATE}", LEAF.trim_end());
    let encrypted = "key is encrypted: the key at line 1 needs a passphrase";
    let cases = [
        (
            pem!("v1").to_owned(),
            pem!("ec.pk8"),
            "crt cannot be used: the certificate at line 1 is of X.509 version 1, and TLS needs version 3; make a new one",
        ),
        (
            pem!("small").to_owned(),
            pem!("small.key"),
            "crt cannot be used: the certificate at line 1 is for an RSA key of 1024 bits, and TLS needs RSA of 2048",
        ),
        (
            pem!("k1").to_owned(),
            pem!("k1.sec1"),
            "crt cannot be used: the certificate at line 1 is for an EC key on the curve secp256k1, and TLS needs",
        ),
        (
            LEAF.to_owned(),
            pem!("k1.sec1"),
            "key cannot be used: at line 1 is an EC key on the curve secp256k1",
        ),
        (LEAF.to_owned(), pem!("small.key"), "key cannot be used: at line 1 is an RSA key of 1024 bits"),
        (LEAF.to_owned(), pem!("enc.pk8"), encrypted),
        (LEAF.to_owned(), pem!("enc.sec1"), encrypted),
        (LEAF.to_owned(), pem!("rsa.pk8"), "mismatch"),
        (
            LEAF.to_owned(),
            LEAF,
            "key holds no private key in PEM form (-----BEGIN PRIVATE KEY-----): it holds certificates alone",
        ),
        (
            KEY.to_owned(),
            KEY,
            "crt holds no certificate in PEM form (-----BEGIN CERTIFICATE-----): it holds a private key alone",
        ),
        (glued, KEY, "crt is damaged: line 12 ends one block and begins another"),
        (
            format!("{LEAF}{damaged}"),
            KEY,
            "crt is damaged: the certificate that begins at line 13 cannot be read",
        ),
        (
            format!("{LEAF}{cut}"),
            KEY,
            "crt is damaged: the certificate that begins at line 13 cannot be read",
        ),
    ];
    for (certificate, key, words) in cases {
        let error = put_together(&certificate, key).map(drop).unwrap_err();
        assert!(error.starts_with(words), "{error}\nis not\n{words}");
        for debug in ["Error", "{", "(\"", "InvalidCertificate"] {
            assert!(!error.contains(debug), "{error}");
        }
    }
}

#[test]
fn an_issuer_by_name_whose_key_did_not_sign_is_damaged() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Twice");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        (certificate, Issuer::new(params, key))
    };
    let ((right, issuer), (wrong, _)) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap().pem();
    let key = key.serialize_pem();
    let good = put_together(&[&*leaf, &right].concat(), &key).unwrap();
    let both = put_together(&[&*leaf, &wrong, &right].concat(), &key).unwrap();
    assert_eq!(good.cert, both.cert[..2], "the one that signed comes first");
    let error = put_together(&[leaf, wrong].concat(), &key).map(drop).unwrap_err();
    assert!(error.contains("and not its key; get the chain from the CA again"), "{error}");
}

#[test]
fn every_certificate_that_is_read_has_its_names() {
    let names = |file: &str| Chain::parse(file.as_bytes()).unwrap().names().to_vec();
    assert_eq!(names(LEAF), ["localhost", "registry.example", "127.0.0.1"]);
    assert_eq!(names(pem!("cn")), ["common.example"]);
    assert_eq!(names(pem!("nameless")), Vec::<String>::new());
    assert_eq!(names(pem!("v1")), ["localhost"]);
    let has_san = |file: &str| Chain::parse(file.as_bytes()).unwrap().has_san();
    assert!(has_san(LEAF) && !has_san(pem!("cn")) && !has_san(pem!("v1")));
}
