//! Dockerfiles in the style of well-known images and templates, built whole.
//!
//! They are those of `testdata/dockerfile/real-*`. Their base images are stood in for by one on busybox, in which package
//! managers and compilers leave what the real ones would (`testdata/real`): what is built for real is all that is the
//! Dockerfile's: its stages, copies, mounts, scripts, users and directories.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use support::{can_build, text, Rbuild};

struct Real {
    /// Without `real-`.
    name: &'static str,
    /// The images that it begins with and copies from.
    images: &'static str,
    args: &'static str,
    /// Paths of the result with mode, owner and group.
    shows: &'static [&'static str],
}

const fn real(name: &'static str, images: &'static str, shows: &'static [&'static str]) -> Real {
    Real { name, images, args: "", shows }
}

/// Where an image brings users of its own that a Dockerfile makes itself, it begins with one that has none.
const BARE_DEBIAN: &str = "--build-context debian:bookworm-slim=docker-image://bare";

const CASES: &[Real] = &[
    real("alpine-rootfs", "", &["/inner 640 0 0"]),
    Real {
        args: "--secret id=pip_conf,src=context/LICENSE",
        ..real("ansible-ssh", "python:3.12-alpine", &["/usr/local/lib/python3/site-packages/left.py 644 0 0"])
    },
    real("buildpack-deps", "debian:bookworm", &["/bin/busybox 755 0 0"]),
    real("bun", "oven/bun:1", &["/usr/src/app/index.ts 644 0 0", "/usr/src/app/node_modules/left/index.js 644 0 0"]),
    real("caddy-plugins", "caddy:2-builder caddy:2", &["/usr/bin/caddy 755 0 0", "/etc/caddy/Caddyfile 644 0 0"]),
    real("conda", "continuumio/miniconda3:24.9.2-0 debian:bookworm", &["/venv/bin/conda-unpack 755 0 0"]),
    real("cpp-cmake", "gcc:14 gcr.io/distroless/cc-debian12", &["/app 755 0 0"]),
    real("debian-rootfs", "", &["/inner 640 0 0"]),
    real("deno", "denoland/deno:alpine-2.1.4", &["/app/deps.ts 644 0 0", "/app 755 0 0"]),
    real("dind", "docker:27-cli docker:27-dind", &["/usr/local/bin/dockerd 644 0 0", "/etc/subuid 644 0 0"]),
    real("django", "python:3.12", &["/code/manage.py 644 100 0", "/code/static/app.css 644 100 0"]),
    real("dotnet", "mcr.microsoft.com/dotnet/sdk:9.0 mcr.microsoft.com/dotnet/aspnet:9.0", &["/app/aspnetapp 755 0 0"]),
    real(
        "elasticsearch",
        "ubuntu:24.04",
        &[
            "/usr/share/elasticsearch/config/elasticsearch.yml 664 0 0",
            "/usr/share/elasticsearch/data 775 0 0",
            "/usr/local/bin/docker-entrypoint.sh 555 0 0",
        ],
    ),
    real(
        "elixir",
        "hexpm/elixir:1.17.3-erlang-27.1.2-debian-bookworm-20241202-slim debian:bookworm-20241202-slim",
        &["/app/bin/server 755 65534 0", "/app 755 65534 0"],
    ),
    real(
        "go-cross",
        "tonistiigi/xx:1.5.0 golang:1.23-bookworm debian:bookworm-slim",
        &["/usr/local/bin/app 755 0 0", "/bin/busybox 755 0 0"],
    ),
    real("go-static", "golang:1.23-alpine gcr.io/distroless/static-debian12:nonroot", &["/server 755 0 0"]),
    real("go-with-tests", "golang:1.23 alpine:3.20", &["/bin/app 755 0 0"]),
    Real { args: "--target coverage", ..real("go-with-tests", "golang:1.23 alpine:3.20", &["/cover.out 644 0 0"]) },
    real(
        "grafana",
        "node:22-alpine golang:1.23-alpine alpine:3.20",
        &["/usr/share/grafana/conf/a.ini 644 0 0", "/usr/share/grafana/public/build/app.js 644 0 0"],
    ),
    real(
        "haproxy",
        "debian:bookworm-slim",
        &["/usr/local/bin/docker-entrypoint.sh 755 0 0", "/var/lib/haproxy 755 99 99"],
    ),
    real("haskell", "haskell:9.6-slim debian:bookworm-slim", &["/usr/bin/app 755 0 0"]),
    real(
        "httpd",
        "debian:bookworm-slim",
        &[
            "/usr/local/apache2 755 33 33",
            "/usr/local/apache2/conf/httpd.conf 644 0 0",
            "/usr/local/bin/httpd-foreground 644 0 0",
        ],
    ),
    real("java-gradle", "gradle:8-jdk21 amazoncorretto:21-alpine", &["/app.jar 644 0 0"]),
    real(
        "java-jlink",
        "eclipse-temurin:21 debian:bookworm-slim",
        &["/opt/java/openjdk/bin/java 755 0 0", "/opt/app/japp.jar 644 0 0"],
    ),
    Real {
        args: "--build-arg kafka_url=https://archive.example/kafka.tgz",
        ..real("kafka", "eclipse-temurin:21-jre-alpine", &["/opt/kafka 755 0 0"])
    },
    real("java-maven", "maven:3.9-eclipse-temurin-21 eclipse-temurin:21-jre", &["/app.jar 644 0 0"]),
    real(
        "java-spring-layers",
        "eclipse-temurin:21-jdk eclipse-temurin:21-jre",
        &["/application/application.jar 644 0 0", "/application/lib/a.jar 644 0 0"],
    ),
    real("jekyll", "ruby:3.3-alpine", &["/index.html 644 0 0"]),
    real("jupyter", "quay.io/jupyter/minimal-notebook", &["/root 700 0 0"]),
    real(
        "laravel",
        "node:20 composer:2 dunglas/frankenphp:1-php8.3",
        &["/app/vendor/autoload.php 644 0 0", "/app/public/build/app.js 644 0 0", "/app/artisan 644 0 0"],
    ),
    real(
        "lint-tools",
        "golangci/golangci-lint:v1.62-alpine koalaman/shellcheck:stable alpine:3.20",
        &["/usr/bin/golangci-lint 644 0 0", "/usr/bin/shellcheck 644 0 0", "/src 755 0 0"],
    ),
    real(
        "mongo",
        "ubuntu:jammy",
        &[
            "/data/db 755 999 999",
            "/etc/apt/sources.list.d/mongodb-org.list 644 0 0",
            "/usr/local/bin/docker-entrypoint.sh 644 0 0",
        ],
    ),
    real(
        "mysql",
        "oraclelinux:9-slim",
        &["/etc/pki/rpm-gpg/RPM-GPG-KEY-mysql 644 0 0", "/etc/yum.repos.d/mysql-community-minimal.repo 644 0 0"],
    ),
    real(
        "nginx-static",
        "nginx:alpine",
        &["/usr/share/nginx/html/index.html 644 101 101", "/etc/nginx/nginx.conf 644 0 0"],
    ),
    Real {
        args: BARE_DEBIAN,
        ..real("nginx-official", "", &["/docker-entrypoint.sh 644 0 0", "/var/log/nginx/access.log 777 0 0"])
    },
    real(
        "node-next",
        "node:20-alpine",
        &["/app/server.js 644 1001 1001", "/app/.next/static/app.css 644 1001 1001", "/app/public/logo 644 0 0"],
    ),
    real(
        "node-pnpm-workspace",
        "node:20-slim",
        &["/app/node_modules/left/index.js 644 0 0", "/app/dist/index.html 644 0 0", "/app/server.js 644 0 0"],
    ),
    real(
        "node-server",
        "node:22-alpine",
        &[
            "/usr/src/app/server.js 644 1000 1000",
            "/usr/src/app/package.json 644 1000 1000",
            "/usr/src/app/node_modules/left/index.js 644 0 0",
        ],
    ),
    Real {
        args: "--build-context alpine:3.20=docker-image://bare",
        ..real("node-official", "", &["/usr/local/bin/node 755 0 0", "/usr/local/bin/nodejs 777 0 0"])
    },
    real("php-apache", "php:8.3-apache", &["/usr/local/etc/php/php.ini 644 0 0", "/var/www/html/main.rs 644 33 33"]),
    real(
        "php-fpm",
        "php:8.3-fpm-alpine composer:2",
        &["/srv/app/vendor/classmap.php 644 0 0", "/srv/app/composer.json 644 0 0"],
    ),
    real(
        "postgres-extension",
        "postgres:17",
        &["/usr/lib/ext.so 644 0 0", "/docker-entrypoint-initdb.d/10-ext.sql 644 0 0"],
    ),
    Real {
        args: BARE_DEBIAN,
        ..real(
            "postgres-official",
            "",
            &[
                "/usr/local/bin/gosu 755 0 0",
                "/var/lib/postgresql/data 1777 999 999",
                "/usr/local/bin/docker-enforce-initdb.sh 777 0 0",
            ],
        )
    },
    real(
        "prometheus",
        "quay.io/prometheus/busybox-linux-amd64:latest",
        &["/bin/prometheus 644 0 0", "/prometheus 755 65534 65534", "/etc/prometheus 755 65534 65534"],
    ),
    real(
        "python-flask",
        "python:3.12-slim",
        &["/app/requirements.txt 644 0 0", "/usr/local/lib/python3/site-packages/left.py 644 0 0"],
    ),
    Real {
        args: BARE_DEBIAN,
        ..real("python-official", "", &["/usr/local/bin/python3 755 0 0", "/usr/local/bin/python-config 777 0 0"])
    },
    real("python-poetry", "python:3.11-slim", &["/app/.venv/bin/python 755 0 0", "/app/main.py 644 0 0"]),
    real(
        "python-uv",
        "python:3.12-slim-bookworm ghcr.io/astral-sh/uv:0.5.9",
        &["/app/.venv/bin/fastapi 755 0 0", "/app/pyproject.toml 644 0 0"],
    ),
    real(
        "rabbitmq",
        "ubuntu:24.04",
        &["/opt/openssl/lib/libssl.so 644 0 0", "/etc/rabbitmq/conf.d/10-defaults.conf 644 1006 1006"],
    ),
    real(
        "rails",
        "ruby:3.3.6-slim",
        &["/rails/log/x 644 1000 1000", "/rails/Gemfile 644 0 0", "/usr/local/bundle/ruby/3.3/left.rb 644 0 0"],
    ),
    real(
        "registry",
        "tonistiigi/xx:1.6.1 golang:1.23.4-alpine3.21 alpine:3.21",
        &["/bin/registry 755 0 0", "/bin/busybox 755 0 0"],
    ),
    real(
        "ruby-official",
        "buildpack-deps:bookworm",
        &["/usr/src/ruby/file.c 644 0 0", "/usr/local/bin/ruby 755 0 0", "/usr/local/bundle 1777 0 0"],
    ),
    real("rust-chef", "lukemathwalker/cargo-chef:latest-rust-1 debian:bookworm-slim", &["/usr/local/bin/app 755 0 0"]),
    real("rust-musl", "rust:alpine", &["/server 755 0 0"]),
    real(
        "rust-official",
        "buildpack-deps:bookworm",
        &["/usr/local/cargo/bin/rustc 777 0 0", "/usr/local/rustup 777 0 0"],
    ),
    real("rust-release", "rust:1.83 debian:bookworm-slim", &["/usr/local/bin/app 755 0 0"]),
    real("swift", "swift:6.0-noble ubuntu:noble", &["/app/App 755 100 100", "/app/Public/index.html 444 100 100"]),
    real("terraform", "golang:alpine", &["/go/src/github.com/hashicorp/terraform/built 644 0 0", "/go 755 0 0"]),
    real("tex", "debian:bookworm-slim", &["/main.pdf 644 0 0"]),
    real(
        "tomcat",
        "eclipse-temurin:17-jre-jammy tomcat:10.1.34-jdk17-temurin-jammy",
        &["/usr/local/tomcat/bin/catalina.sh 644 0 0"],
    ),
    Real { args: "--build-arg BIN_NAME=vault", ..real("vault", "alpine:3", &["/bin/vault 644 0 0"]) },
    real(
        "vite-nginx",
        "node:22 nginx:1.27-alpine",
        &["/usr/share/nginx/html/index.html 644 0 0", "/etc/nginx/conf.d/default.conf 644 0 0"],
    ),
    real(
        "wordpress",
        "php:8.2-apache",
        &["/usr/src/wordpress/.htaccess 644 33 33", "/usr/src/wordpress/wp-config-docker.php 644 33 33"],
    ),
    real("zig", "alpine:edge", &["/app 755 0 0"]),
];

/// What all of them find in their context.
const FILES: &str = "package.json package-lock.json project.json bun.lockb requirements.txt requirements/production.txt \
    manage.py pyproject.toml poetry.lock uv.lock go.mod go.sum Cargo.toml Cargo.lock src/main.rs src/app/main.py pom.xml \
    build.gradle app/main.py target/a.jar Gemfile Gemfile.lock composer.json composer.lock symfony.lock docker/x \
    Caddyfile nginx.conf html/index.html vite.config.js resources/app.css artisan aspnetapp/aspnetapp.csproj app.cabal \
    aspnetapp/Program.cs Package.swift Public/index.html CMakeLists.txt docker-entrypoint.sh japp.jar LICENSE mix.exs \
    .build/linux-amd64/prometheus .build/linux-amd64/promtool config/config.exs config/prod.exs lib/app.ex mix.lock main.tex figures/a \
    environment.yml httpd-foreground config/elasticsearch.yml config/log4j2.properties \
    bin/docker-entrypoint.sh 10-defaults.conf 20-management_agent.disable_metrics_collector.conf server.js index.ts deps.ts main.ts public/logo conf/a.ini dist/linux/amd64/vault dist/linux/arm64/vault db/x log/x \
    storage/x tmp/x bin/docker-entrypoint docker-ensure-initdb.sh 10-listen-on-ipv6-by-default.sh wp-config-docker.php";

fn context(rbuild: &Rbuild) -> std::path::PathBuf {
    let files: Vec<(&str, &str)> = FILES.split_whitespace().map(|path| (path, "")).collect();
    let context = rbuild.context("context", &files);
    rbuild.context("context", &[("bin/rails", "#!/bin/sh\n"), ("scripts/build.sh", "echo built > built\n")]);
    fs::set_permissions(context.join("bin/rails"), fs::Permissions::from_mode(0o755)).unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/archives/small.tar.xz");
    fs::copy(&archive, context.join("rootfs.tar.xz")).unwrap();
    let packed =
        Command::new("sh").args(["-c", "busybox xz -dc \"$1\" | gzip -c", "sh"]).arg(archive).output().unwrap();
    assert!(packed.status.success(), "{}", text(&packed.stderr));
    fs::write(context.join("alpine-minirootfs-3.21.0-x86_64.tar.gz"), packed.stdout).unwrap();
    context
}

#[test]
fn well_known_dockerfiles_build_whole() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    rbuild.ok(["build".as_ref(), "-t".as_ref(), "stand-in".as_ref(), testdata.join("real").as_os_str()]);
    rbuild.ok([
        "build".as_ref(),
        "-t".as_ref(),
        "bare".as_ref(),
        "--target=bare".as_ref(),
        testdata.join("real").as_os_str(),
    ]);
    let mut images: Vec<&str> = CASES.iter().flat_map(|case| case.images.split_whitespace()).collect();
    images.sort_unstable();
    images.dedup();
    for image in &images {
        rbuild.ok(["tag", "stand-in", image]);
    }
    let context = context(&rbuild);
    let (next, wrong) = (Mutex::new(CASES.iter().enumerate()), Mutex::new(Vec::new()));
    let build = |number: usize, case: &Real| -> Result<(), String> {
        let dest = rbuild.path(&format!("out-{number}"));
        let file = testdata.join(format!("dockerfile/real-{}/Dockerfile", case.name));
        let mut command = rbuild.command(["build", "--progress=plain"]);
        command.args(case.args.split_whitespace()).arg("-o").arg(&dest).arg("-f").arg(file);
        let output = command.arg(&context).output().unwrap();
        if !output.status.success() {
            return Err(text(&output.stderr));
        }
        let tree = support::Tree(dest);
        for shown in case.shows {
            let (path, _) = shown.split_once(' ').unwrap();
            if !tree.has(path) {
                return Err(format!("{path} is not there"));
            }
            let (mode, uid, gid) = tree.mode(path);
            let found = format!("{path} {mode:o} {uid} {gid}");
            if found != *shown {
                return Err(format!("{found}, not {shown}"));
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| loop {
                let Some((number, case)) = next.lock().unwrap().next() else { return };
                if let Err(why) = build(number, case) {
                    wrong.lock().unwrap().push(format!("--- {}: {why}", case.name));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

#[test]
fn those_that_are_not_built_are_argued() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let entries = fs::read_dir(testdata.join("dockerfile")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.filter_map(|name| name.to_str()?.strip_prefix("real-").map(str::to_owned));
    let argued = fs::read_to_string(testdata.join("real/NOT_BUILT.md")).unwrap();
    for name in names {
        let is_built = CASES.iter().any(|case| case.name == name);
        assert_ne!(is_built, argued.contains(&format!("| `{name}` |")), "{name} is built, or argued");
    }
}
