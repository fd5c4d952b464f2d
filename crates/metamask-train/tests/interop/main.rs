//! Encoders to and from torchvision's and timm's own code.
//!
//! `METAMASK_PYTHON` names a Python with the packages of `xtask/peers/requirements.txt`.

mod python;
