//! Files and images that go with messages.

use serde::{Deserialize, Serialize};

use crate::{
    id::{AttachmentId, TenantId},
    time::Timestamp,
};

/// One stored file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Attachment {
    /// `att_…`
    pub id: AttachmentId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The file's name, without any folder.
    pub name: String,
    /// Such as `image/png`.
    pub media_type: String,
    /// In bytes.
    pub size: u64,
    /// SHA-256 of the content, in hex.
    pub sha256: String,
    /// When it was stored.
    pub created_at: Timestamp,
}

impl Attachment {
    /// Where its content lies among the blobs.
    #[must_use]
    pub fn blob_key(&self) -> String {
        blob_key(&self.tenant_id, &self.id)
    }
}

/// Where the content of an attachment lies among the blobs.
#[must_use]
pub fn blob_key(tenant: &TenantId, attachment: &AttachmentId) -> String {
    format!("{tenant}/attachments/{attachment}")
}

/// What has a browser save a file under its name, as RFC 6266 with the name as in RFC 8187: whatever it has in it, the header
/// stays one line of ASCII.
#[must_use]
pub fn content_disposition(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte);
    let encoded = name.bytes().fold(String::new(), |text, byte| {
        if plain(byte) { text + char::from(byte).encode_utf8(&mut [0; 4]) } else { format!("{text}%{byte:02X}") }
    });
    format!("attachment; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_cannot_leave_its_header() {
        let header = super::content_disposition("a b\"\r\n客.txt");
        assert_eq!(header, "attachment; filename*=UTF-8''a%20b%22%0D%0A%E5%AE%A2.txt");
    }
}
