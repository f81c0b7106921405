//! Messages that the standard clients would not send.

/// A TLS 1.3 ClientHello as one handshake message, without record headers.
pub(super) fn hello_message(name: Option<&str>) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |number: u16, body: &[u8]| {
        extensions.extend(number.to_be_bytes());
        extensions.extend(short(body));
    };
    if let Some(name) = name {
        let entry = [&[0_u8][..], &short(name.as_bytes())].concat();
        extension(0, &short(&entry));
    }
    // supported_groups: x25519; signature_algorithms: ecdsa_secp256r1_sha256;
    // supported_versions: TLS 1.3; key_share: x25519.
    extension(10, &short(&[0, 29]));
    extension(13, &short(&[4, 3]));
    extension(43, &[2, 3, 4]);
    extension(51, &short(&[&[0, 29][..], &short(&[7; 32])].concat()));

    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.push(0);
    body.extend(short(&[0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(short(&extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

/// A handshake record around these bytes.
pub(super) fn record(bytes: &[u8]) -> Vec<u8> {
    [&[0x16, 3, 1][..], &short(bytes)].concat()
}

/// A ClientHello in one record.
pub(super) fn hello(name: &str) -> Vec<u8> {
    record(&hello_message(Some(name)))
}

/// The TLS alert `access_denied`, fatal.
pub(super) const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

fn short(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[..], bytes].concat()
}
