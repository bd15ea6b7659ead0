//! Switches, which may have a value as other builders' may: `--push=false`, as scripts with a variable give it.

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Command};

/// The command with switches that take `=true` and `=false`, and those of its subcommands.
///
/// <https://pkg.go.dev/github.com/spf13/pflag#hdr-Command_line_flag_syntax>
pub(super) fn with_values(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_name("BOOL")
            .value_parser(BoolishValueParser::new())
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => arg,
    });
    command.mut_subcommands(with_values)
}

#[cfg(test)]
mod tests {
    use super::super::args::{parse, Verb};

    #[test]
    fn a_switch_may_be_given_its_value() {
        let told = |line: &str| {
            let argv = line.split(' ').map(Into::into).collect();
            parse(argv).map(|command| match command.verb {
                Verb::Build(build) => (build.push, build.quiet, build.tags),
                _ => panic!("not a build"),
            })
        };
        for (line, push, quiet) in [
            ("rbuild --push .", true, false),
            ("rbuild . --push", true, false),
            ("rbuild --push=true -q=false .", true, false),
            ("rbuild --push=false -q .", false, true),
            ("rbuild --push=0 --quiet=1 .", false, true),
            ("rbuild .", false, false),
        ] {
            assert_eq!(told(line).unwrap(), (push, quiet, vec![]), "{line}");
        }
        assert_eq!(told("rbuild -qt a .").unwrap(), (false, true, vec!["a".to_string()]));
        for line in ["rbuild --push=maybe .", "rbuild --push true .", "rbuild --push= ."] {
            assert!(told(line).is_err(), "{line}");
        }
    }
}
