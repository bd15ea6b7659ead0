//! All rules: their names, what each is about, and where more is said.

/// A rule that findings refer to by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As it is written in `# check=skip=…`.
    pub name: &'static str,
    /// What it is about.
    pub description: &'static str,
    /// Where more is said; empty where nothing is.
    pub url: &'static str,
}

/// The rule of this name.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

macro_rules! rules {
    ($($name:literal, $page:literal, $description:literal;)*) => {
        /// In alphabetical order.
        pub const RULES: &[Rule] = &[$(Rule {
            name: $name,
            description: $description,
            url: concat!("https://docs.docker.com/go/dockerfile/rule/", $page, "/"),
        }),*];
    };
}

rules! {
    "ConsistentInstructionCasing", "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)";
    "CopyIgnoredFile", "copy-ignored-file",
        "Attempting to Copy file that is excluded by .dockerignore";
    "DuplicateStageName", "duplicate-stage-name",
        "Stage names should be unique";
    "ExposeInvalidFormat", "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
    "ExposeProtoCasing", "expose-proto-casing",
        "Protocol in EXPOSE instruction should be lowercase";
    "FromAsCasing", "from-as-casing",
        "The 'as' keyword should match the case of the 'from' keyword";
    "FromPlatformFlagConstDisallowed", "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value";
    "InvalidBaseImagePlatform", "invalid-base-image-platform",
        "Base image platform does not match expected target platform";
    "InvalidDefaultArgInFrom", "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name";
    "InvalidDefinitionDescription", "invalid-definition-description",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.";
    "JSONArgsRecommended", "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    "LegacyKeyValueFormat", "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used";
    "MaintainerDeprecated", "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    "MultipleInstructionsDisallowed", "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage";
    "NoEmptyContinuation", "no-empty-continuation",
        "Empty continuation lines will become errors in a future release";
    "RedundantTargetPlatform", "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    "ReservedStageName", "reserved-stage-name",
        "Reserved words should not be used as stage names";
    "SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands";
    "StageNameCasing", "stage-name-casing",
        "Stage names should be lowercase";
    "UndefinedArgInFrom", "undefined-arg-in-from",
        "FROM command must use declared ARGs";
    "UndefinedVar", "undefined-var",
        "Variables should be defined before their use";
    "WorkdirRelativePath", "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
}
