//! Bytes of a person's own, which no space holds: sealed for a device, opened and signed by this one, verified.

use rand::rngs::StdRng;
pub use syncline_model::bytes::{BytesError, BytesSignature, SEALED_BYTES_OVERHEAD, open_bytes, seal_bytes};
pub use syncline_model::limits::OWN_BYTES_MAX;
use syncline_model::{DeviceId, DeviceText};

use super::{Node, builder};
use crate::error::Error;

impl Node {
    /// Seals bytes, 64 MiB at most, so that one device alone can open them; no space and no network is needed.
    ///
    /// # Errors
    /// When there are too many, or the device's exchange key cannot be used.
    pub async fn seal_bytes(&self, recipient: DeviceText, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        builder::blocking(move || Ok(seal_bytes(&recipient, &bytes, &mut rand::make_rng::<StdRng>())?)).await
    }

    /// Opens bytes that were sealed for this device.
    ///
    /// # Errors
    /// When they are something else, for another device, or were changed.
    pub async fn open_bytes(&self, sealed: Vec<u8>) -> Result<Vec<u8>, Error> {
        let device = self.inner.device.clone();
        builder::blocking(move || Ok(open_bytes(&device, &sealed)?)).await
    }

    /// Signs bytes, 64 MiB at most, with this device's key; the signature never stands for an operation.
    ///
    /// # Errors
    /// When there are too many.
    pub async fn sign_bytes(&self, bytes: Vec<u8>) -> Result<BytesSignature, Error> {
        let device = self.inner.device.clone();
        builder::blocking(move || Ok(BytesSignature::sign(&device, &bytes)?)).await
    }

    /// Checks that a device signed these bytes.
    ///
    /// # Errors
    /// When another device signed, or other bytes.
    pub async fn verify_bytes(&self, signature: BytesSignature, by: DeviceId, bytes: Vec<u8>) -> Result<(), Error> {
        builder::blocking(move || Ok(signature.verify(&by, &bytes)?)).await
    }
}

/// The device that a person names by its id or its device text.
///
/// # Errors
/// When the text is neither.
pub fn parse_device(text: &str) -> Result<DeviceId, Error> {
    match text.trim().parse::<DeviceId>() {
        Ok(device) => Ok(device),
        Err(_) => Ok(text.parse::<DeviceText>()?.device()),
    }
}
