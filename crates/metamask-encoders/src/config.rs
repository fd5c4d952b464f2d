//! A backbone chosen by a configuration.

use candle_core::{DType, Device, Result};
use metamask_random::Key;
use serde::{Deserialize, Serialize};

use crate::{
    ConvNet, ConvNetConfig, Encoder, FullyConnected, FullyConnectedConfig, ResNet, ResNetConfig,
};

/// The kinds of backbone, by the word that configurations have for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// [`ResNet`]
    #[serde(rename = "resnet")]
    ResNet,
    /// [`ConvNet`]
    Conv,
    /// [`FullyConnected`]
    Fc,
}

/// A backbone with its settings; in a file, its kind is the key `architecture`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "architecture", rename_all = "kebab-case")]
pub enum EncoderConfig {
    /// A residual network.
    #[serde(rename = "resnet")]
    ResNet(ResNetConfig),
    /// The small convolutional network.
    Conv(ConvNetConfig),
    /// The fully connected network.
    Fc(FullyConnectedConfig),
}

impl EncoderConfig {
    /// Its kind.
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::ResNet(_) => Architecture::ResNet,
            Self::Conv(_) => Architecture::Conv,
            Self::Fc(_) => Architecture::Fc,
        }
    }

    /// The backbone at its seeded start.
    ///
    /// # Errors
    /// If a setting is out of its range.
    pub fn build(&self, key: Key, dtype: DType, device: &Device) -> Result<Box<dyn Encoder>> {
        Ok(match self {
            Self::ResNet(config) => Box::new(ResNet::new(config, key, dtype, device)?),
            Self::Conv(config) => Box::new(ConvNet::new(config, key, dtype, device)?),
            Self::Fc(config) => Box::new(FullyConnected::new(config, key, dtype, device)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_architecture_chooses_and_the_others_are_its_settings() {
        let read = |text: &str| toml::from_str::<EncoderConfig>(text);
        let conv = EncoderConfig::Conv(ConvNetConfig { width: 16, ..Default::default() });
        assert_eq!(read("architecture = 'conv'\nwidth = 16"), Ok(conv.clone()));
        assert_eq!(read(&toml::to_string(&conv).unwrap()), Ok(conv));
        let resnet = EncoderConfig::ResNet(ResNetConfig { depth: 50, ..Default::default() });
        assert_eq!(read("architecture = 'resnet'\ndepth = 50"), Ok(resnet));
        let fc = read("architecture = 'fc'").unwrap();
        assert_eq!(fc, EncoderConfig::Fc(FullyConnectedConfig::default()));
        assert_eq!(fc.architecture(), Architecture::Fc);

        let error = read("architecture = 'conv'\ndepth = 18").unwrap_err().to_string();
        assert!(error.contains("depth"), "{error}");
        assert!(read("architecture = 'vit'").is_err());
    }
}
