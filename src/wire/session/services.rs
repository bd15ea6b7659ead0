//! The methods a client may serve in a session, as its headers name them.

/// Whether the client lives.
pub const HEALTH: &[&str] = &["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
/// Its directories.
pub const FILE_SYNC: &[&str] = &["/moby.filesync.v1.FileSync/DiffCopy", "/moby.filesync.v1.FileSync/TarStream"];
/// Takes results.
pub const FILE_SEND: &[&str] = &["/moby.filesync.v1.FileSend/DiffCopy"];
/// Its credentials at registries.
pub const AUTH: &[&str] = &[
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.filesync.v1.Auth/FetchToken",
    "/moby.filesync.v1.Auth/GetTokenAuthority",
    "/moby.filesync.v1.Auth/VerifyTokenAuthority",
];
/// Its secrets.
pub const SECRETS: &[&str] = &["/moby.buildkit.secrets.v1.Secrets/GetSecret"];
/// Its ssh agents.
pub const SSH: &[&str] = &["/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"];
/// Its standard input.
pub const UPLOAD: &[&str] = &["/moby.upload.v1.Upload/Pull"];
/// Its blobs.
pub const CONTENT: &[&str] = &[
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Update",
    "/containerd.services.content.v1.Content/List",
    "/containerd.services.content.v1.Content/Delete",
    "/containerd.services.content.v1.Content/Read",
    "/containerd.services.content.v1.Content/Status",
    "/containerd.services.content.v1.Content/ListStatuses",
    "/containerd.services.content.v1.Content/Write",
    "/containerd.services.content.v1.Content/Abort",
];
/// Names more exporters.
pub const EXPORTER: &[&str] =
    &["/moby.exporter.v1.Exporter/FindExporters", "/moby.exporter.v1.Exporter/FinalizeExport"];
/// Decides about sources.
pub const POLICY_VERIFIER: &[&str] = &["/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::DESCRIPTORS;

    #[test]
    fn each_method_is_one_of_the_services_we_speak() {
        let pool = prost_reflect::DescriptorPool::decode(DESCRIPTORS).unwrap();
        for list in [HEALTH, FILE_SYNC, AUTH, SECRETS, SSH, UPLOAD, CONTENT, EXPORTER, POLICY_VERIFIER] {
            let service = list[0].split('/').nth(1).unwrap();
            let service = pool.get_service_by_name(service).unwrap_or_else(|| panic!("no service {service}"));
            let methods: Vec<_> = service.methods().map(|m| format!("/{}/{}", service.full_name(), m.name())).collect();
            assert_eq!(methods, list);
        }
    }
}
