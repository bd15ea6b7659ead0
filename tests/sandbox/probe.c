/* Tries what a build step may or may not do, one line each: name, space, result. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void say(const char *name, long result) {
  printf("%s %s\n", name, result < 0 ? strerrorname_np(errno) : "ok");
  fflush(stdout);
}

/* A try that changes the process is made by a child. */
#define CHILD(name, call)                                                      \
  do {                                                                         \
    pid_t pid = fork();                                                        \
    if (pid == 0) {                                                            \
      errno = 0;                                                               \
      say(name, (long)(call));                                                 \
      _exit(0);                                                                \
    }                                                                          \
    int status;                                                                \
    waitpid(pid, &status, 0);                                                  \
    if (WIFSIGNALED(status)) printf("%s signal%d\n", name, WTERMSIG(status));  \
    fflush(stdout);                                                            \
  } while (0)

static int node(const char *path, mode_t kind, int major, int minor) {
  unlink(path);
  if (mknod(path, kind | 0600, makedev(major, minor)) < 0) return -1;
  return 0;
}

static int try_open(const char *path, int flags) {
  int fd = open(path, flags | O_NONBLOCK);
  if (fd < 0) return -1;
  close(fd);
  return 0;
}

static int trace_child(void) {
  pid_t pid = fork();
  if (pid == 0) { pause(); _exit(0); }
  int result = ptrace(PTRACE_ATTACH, pid, 0, 0), saved = errno;
  kill(pid, SIGKILL);
  waitpid(pid, 0, 0);
  errno = saved;
  return result;
}

#ifdef __x86_64__
/* The call of a 32-bit program; the filter sees it as one. */
static long call_i386(long number, long argument) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(argument) : "memory", "r8", "r9", "r10", "r11");
  if (result < 0) { errno = (int)-result; return -1; }
  return result;
}
static long call_x32(long number) { return syscall(0x40000000L | number); }
#endif

int main(void) {
  mkdir("/mnt", 0755);
  CHILD("mount", mount("none", "/mnt", "tmpfs", 0, ""));
  CHILD("mount-proc", mount("proc", "/mnt", "proc", 0, ""));
  CHILD("remount", mount(0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0));
  CHILD("umount-mask", umount2("/proc/keys", MNT_DETACH));
  CHILD("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
  CHILD("open_tree", syscall(SYS_open_tree, -1, "", 0));
  CHILD("move_mount", syscall(SYS_move_mount, -1, "", -1, "", 0));
  CHILD("mount_setattr", syscall(SYS_mount_setattr, -1, "", 0, 0, 0));
  CHILD("pivot_root", syscall(SYS_pivot_root, "/", "/"));
  CHILD("chroot", chroot("/mnt"));
  CHILD("unshare-user", unshare(CLONE_NEWUSER));
  CHILD("unshare-mount", unshare(CLONE_NEWNS));
  CHILD("unshare-net", unshare(CLONE_NEWNET));
  CHILD("clone-user", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
  CHILD("clone3", syscall(SYS_clone3, 0, 0));
  CHILD("setns", setns(open("/proc/self/ns/mnt", O_RDONLY), 0));
  CHILD("ptrace-child", trace_child());
  CHILD("process_vm_readv", syscall(SYS_process_vm_readv, getpid(), 0, 0, 0, 0, 0));
  CHILD("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
  CHILD("pidfd_getfd", syscall(SYS_pidfd_getfd, -1, 0, 0));
  CHILD("keyctl", syscall(SYS_keyctl, 0, -3, 0));
  CHILD("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
  CHILD("bpf", syscall(SYS_bpf, 99, 0, 0));
  CHILD("perf_event_open", syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));
  CHILD("userfaultfd", syscall(SYS_userfaultfd, 0));
  CHILD("io_uring_setup", syscall(SYS_io_uring_setup, 1, 0));
  CHILD("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, 0, 0));
  CHILD("init_module", syscall(SYS_init_module, 0, 0, ""));
  CHILD("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
  CHILD("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
  CHILD("swapon", syscall(SYS_swapon, "/none", 0));
  CHILD("syslog", syscall(SYS_syslog, 3, 0, 0));
  CHILD("sethostname", sethostname("x", 1));
  CHILD("acct", syscall(SYS_acct, "/none"));
  CHILD("no-random", syscall(SYS_personality, 0x0040000));
  CHILD("personality", syscall(SYS_personality, 0xffffffff));
  CHILD("newest", syscall(600));
  CHILD("packet", socket(AF_PACKET, SOCK_RAW, 0));
  CHILD("raw", socket(AF_INET, SOCK_RAW, 1));
  CHILD("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
  CHILD("alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
  CHILD("netlink", socket(AF_NETLINK, SOCK_RAW, 0));
  CHILD("setuid", setgid(1) | setuid(1));
  CHILD("mknod-null", node("/n", S_IFCHR, 1, 3));
  CHILD("open-null", try_open("/n", O_RDWR));
  CHILD("mknod-mem", node("/m", S_IFCHR, 1, 1));
  CHILD("open-mem", try_open("/m", O_RDONLY));
  CHILD("mknod-in-dev", node("/dev/kmsg", S_IFCHR, 1, 11));
  CHILD("open-in-dev", try_open("/dev/kmsg", O_RDONLY));
  CHILD("mknod-disk", node("/dev/shm/b", S_IFBLK, 254, 0));
  CHILD("open-disk", try_open("/dev/shm/b", O_RDONLY));
  unlink("/n");
  unlink("/m");
  CHILD("core_pattern", try_open("/proc/sys/kernel/core_pattern", O_WRONLY));
  CHILD("ip_forward", try_open("/proc/sys/net/ipv4/ip_forward", O_WRONLY));
  CHILD("pid_max", try_open("/proc/sys/kernel/pid_max", O_WRONLY));
  CHILD("write-sys", try_open("/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY));
  CHILD("own-image", try_open("/proc/1/exe", O_WRONLY));
  CHILD("kill-2", kill(2, 0));
  CHILD("trusted-xattr", setxattr("/mnt", "trusted.x", "1", 1, 0));
#ifdef __x86_64__
  CHILD("i386-getuid", call_i386(24, 0));
  CHILD("i386-mount", call_i386(21, 0));
  CHILD("i386-clone3", call_i386(435, 0));
  CHILD("i386-unshare", call_i386(310, CLONE_NEWUSER));
  CHILD("x32-getpid", call_x32(39));
#endif
  rmdir("/mnt");
  return 0;
}
