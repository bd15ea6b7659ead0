//! Processes.

use super::{member, optional_index, optional_output, pb, DecodeError};
use crate::graph::op::{
    CdiDevice, HostIp, Meta, Mount, MountKind, Network, ProxyEnv, RunOp, SecretEnv, SecretMount, Security, Sharing,
    Ulimit,
};
use crate::graph::ContentCache;

impl TryFrom<pb::ExecOp> for RunOp {
    type Error = DecodeError;

    fn try_from(message: pb::ExecOp) -> Result<RunOp, DecodeError> {
        let meta = message.meta.ok_or(DecodeError::Missing { op: "exec", missing: "no meta" })?;
        let network = match member("network mode", message.network)? {
            pb::NetMode::Unset => Network::Sandbox,
            pb::NetMode::Host => Network::Host,
            pb::NetMode::None => Network::None,
        };
        let security = match member("security mode", message.security)? {
            pb::SecurityMode::Sandbox => Security::Sandbox,
            pb::SecurityMode::Insecure => Security::Insecure,
        };
        let secret = |env: pb::SecretEnv| SecretEnv { id: env.id, name: env.name, optional: env.optional };
        let device = |device: pb::CdiDevice| CdiDevice { name: device.name, optional: device.optional };
        Ok(RunOp {
            meta: Box::new(meta.into()),
            mounts: message.mounts.into_iter().map(Mount::try_from).collect::<Result<_, _>>()?,
            network,
            security,
            secret_env: message.secretenv.into_iter().map(secret).collect(),
            devices: message.cdi_devices.into_iter().map(device).collect(),
        })
    }
}

impl From<pb::Meta> for Meta {
    fn from(message: pb::Meta) -> Meta {
        let proxy = |proxy: pb::ProxyEnv| ProxyEnv {
            http: proxy.http_proxy,
            https: proxy.https_proxy,
            ftp: proxy.ftp_proxy,
            no: proxy.no_proxy,
            all: proxy.all_proxy,
        };
        let ulimit = |limit: pb::Ulimit| Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard };
        Meta {
            args: message.args,
            env: message.env,
            cwd: message.cwd,
            user: message.user,
            proxy_env: message.proxy_env.map(proxy),
            extra_hosts: message.extra_hosts.into_iter().map(|h| HostIp { host: h.host, ip: h.ip }).collect(),
            hostname: message.hostname,
            ulimits: message.ulimit.into_iter().map(ulimit).collect(),
            cgroup_parent: message.cgroup_parent,
            remove_mount_stubs_recursive: message.remove_mount_stubs_recursive,
            valid_exit_codes: message.valid_exit_codes,
        }
    }
}

impl TryFrom<pb::Mount> for Mount {
    type Error = DecodeError;

    fn try_from(message: pb::Mount) -> Result<Mount, DecodeError> {
        let content_cache = match member("mount content cache", message.content_cache)? {
            pb::MountContentCache::Default => ContentCache::Default,
            pb::MountContentCache::On => ContentCache::On,
            pb::MountContentCache::Off => ContentCache::Off,
        };
        let kind = match member("mount type", message.mount_type)? {
            pb::MountType::Bind => MountKind::Bind,
            pb::MountType::Secret => MountKind::Secret(message.secret_opt.map(SecretMount::from).unwrap_or_default()),
            pb::MountType::Ssh => MountKind::Ssh(message.ssh_opt.map(SecretMount::from).unwrap_or_default()),
            pb::MountType::Cache => {
                let missing = DecodeError::Missing { op: "exec", missing: "no cache mount options" };
                MountKind::try_from(message.cache_opt.ok_or(missing)?)?
            }
            pb::MountType::Tmpfs => MountKind::Tmpfs { size: message.tmpfs_opt.map_or(0, |options| options.size) },
        };
        Ok(Mount {
            input: optional_index("mount input", message.input)?,
            selector: message.selector,
            dest: message.dest,
            output: match kind {
                // Nothing of these is ever kept, whatever their field says: Go's clients leave it 0.
                MountKind::Secret(_) | MountKind::Ssh(_) => None,
                _ => optional_output(message.output)?,
            },
            readonly: message.readonly,
            kind,
            content_cache,
        })
    }
}

impl TryFrom<pb::CacheOpt> for MountKind {
    type Error = DecodeError;

    fn try_from(message: pb::CacheOpt) -> Result<MountKind, DecodeError> {
        let sharing = match member("cache sharing mode", message.sharing)? {
            pb::CacheSharing::Shared => Sharing::Shared,
            pb::CacheSharing::Private => Sharing::Private,
            pb::CacheSharing::Locked => Sharing::Locked,
        };
        Ok(MountKind::Cache { id: message.id, sharing })
    }
}

impl From<pb::SecretOpt> for SecretMount {
    fn from(message: pb::SecretOpt) -> SecretMount {
        SecretMount {
            id: message.id,
            uid: message.uid,
            gid: message.gid,
            mode: message.mode,
            optional: message.optional,
        }
    }
}
