/*
 * Runs in the jail in the monitor's place and tries what a monitor that was taken over would try.
 *
 * usage: probe REPORT_FD HOST_PORT HOST_PID SHM_KEY
 *        probe REPORT_FD TAP_FD FRAMES   tries what there is to a network device: FRAMES in hexadecimal, by commas
 *        probe stay                      only waits to be killed
 * Writes lines "attempt result" to REPORT_FD, a result being a number, an errno name or text, and exits 0.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define VNET_HEADER 10

extern char **environ;
static FILE *out;

static void say(const char *what, long value) { fprintf(out, "%s %ld\n", what, value); }

static void tried(const char *what, long result) {
    fprintf(out, "%s %s\n", what, result < 0 ? strerrorname_np(errno) : "done");
}

static void list(const char *what, const char *path) {
    DIR *directory = opendir(path);
    fprintf(out, "%s ", what);
    for (struct dirent *each; directory && (each = readdir(directory));)
        if (each->d_name[0] != '.') fprintf(out, "%s,", each->d_name);
    fprintf(out, "\n");
}

static void identity(void) {
    uid_t uids[3];
    gid_t gids[3];
    getresuid(&uids[0], &uids[1], &uids[2]);
    getresgid(&gids[0], &gids[1], &gids[2]);
    fprintf(out, "uids %u,%u,%u\ngids %u,%u,%u\n", uids[0], uids[1], uids[2], gids[0], gids[1], gids[2]);
    say("groups", getgroups(0, NULL));
    say("pid", getpid());
    say("session", getsid(0));
    say("environment", environ[0] != NULL);
    say("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    int bounding = 0;
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        bounding += prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    say("bounding", bounding);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct held[2];
    syscall(SYS_capget, &header, held);
    say("capabilities", held[0].effective | held[0].permitted | held[0].inheritable | held[1].effective |
                            held[1].permitted | held[1].inheritable);
    char name[65];
    gethostname(name, sizeof name);
    fprintf(out, "hostname %s\n", name);
    say("umask", umask(0));
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    say("core", (long)limit.rlim_max);
    getrlimit(RLIMIT_NPROC, &limit);
    say("nproc", (long)limit.rlim_max);
    struct sigaction action;
    sigset_t mask;
    sigaction(SIGPIPE, NULL, &action);
    sigprocmask(SIG_BLOCK, NULL, &mask);
    say("sigpipe_default", action.sa_handler == SIG_DFL && !sigismember(&mask, SIGTERM));
    fprintf(out, "fds ");
    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0) fprintf(out, "%d,", fd);
    fprintf(out, "\n");
}

static void files(void) {
    list("root", "/");
    list("files", "/m");
    char text[16] = "";
    int fd = open("/m/shared", O_RDONLY);
    say("read_shared", read(fd, text, sizeof text));
    tried("write_shared", open("/m/shared", O_WRONLY));
    fd = open("/m/own", O_RDWR);
    tried("write_own", write(fd, "mine", 4));
    tried("exec_own", execl("/m/own", "own", NULL));
    tried("create_root", open("/new", O_CREAT | O_WRONLY, 0600));
    tried("create_files", open("/m/new", O_CREAT | O_WRONLY, 0600));
    tried("write_firmware", open("/usr/firmware", O_WRONLY));
    tried("open_proc", open("/proc/self/status", O_RDONLY));
    tried("open_dev", open("/dev/null", O_RDONLY));
    tried("open_sys", open("/sys", O_RDONLY));
    tried("mknod", mknod("/m/null", S_IFCHR | 0666, 0x103));
    chdir("../../../..");
    list("above", ".");
}

static void list_interfaces(void) {
    struct if_nameindex *names = if_nameindex();
    fprintf(out, "interfaces ");
    for (struct if_nameindex *each = names; each && each->if_name; each++) fprintf(out, "%s,", each->if_name);
    fprintf(out, "\n");
}

static void ways_out(int port, int host_pid, int key) {
    tried("setuid_root", setuid(0));
    tried("setgroups", setgroups(0, NULL));
    tried("user_namespace", unshare(CLONE_NEWUSER));
    tried("mount_namespace", unshare(CLONE_NEWNS));
    tried("network_namespace", unshare(CLONE_NEWNET));
    tried("mount", mount("none", "/m", "tmpfs", 0, NULL));
    tried("remount", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
    tried("unmount", umount2("/m/shared", MNT_DETACH));
    tried("chroot", chroot("/m"));
    tried("sethostname", sethostname("x", 1));
    tried("kill_all", kill(-1, SIGKILL));
    tried("kill_host", kill(host_pid, 0));
    tried("ptrace_host", ptrace(PTRACE_SEIZE, host_pid, 0, 0));
    tried("shared_memory", shmget(key, 1, 0));
    list_interfaces();
    struct sockaddr_in internet = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &internet.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    tried("connect_host", connect(fd, (struct sockaddr *)&internet, sizeof internet));
    tried("raw_socket", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    struct sockaddr_un abstract = {.sun_family = AF_UNIX};
    int length = snprintf(abstract.sun_path + 1, 64, "terp-jail-test-%d", port);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    tried("connect_abstract",
          connect(fd, (struct sockaddr *)&abstract, sizeof abstract.sun_family + 1 + length));
}

static void network_device(int tap, char *frames) {
    struct ifreq other = {.ifr_name = "eth0", .ifr_flags = IFF_TAP | IFF_NO_PI};
    tried("its_namespace", ioctl(tap, SIOCGSKNS));
    tried("its_device_namespace", ioctl(tap, _IO('T', 227))); /* TUNGETDEVNETNS */
    tried("enter", setns(tap, CLONE_NEWNET));
    tried("another_device", ioctl(tap, TUNSETIFF, &other));
    tried("more_tun", open("/dev/net/tun", O_RDWR));
    list_interfaces();
    struct sockaddr_in gateway = {.sin_family = AF_INET, .sin_port = htons(3000)};
    inet_pton(AF_INET, "198.18.0.1", &gateway.sin_addr);
    tried("gateway", connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&gateway, sizeof gateway));
    for (char *frame = strtok(frames, ","); frame; frame = strtok(NULL, ",")) {
        unsigned char bytes[2048] = {0}; /* struct virtio_net_hdr, with no offloads asked for, and the frame */
        size_t length = strlen(frame) / 2;
        for (size_t at = 0; at < length && at < sizeof bytes - VNET_HEADER; at++) sscanf(frame + 2 * at, "%2hhx", &bytes[VNET_HEADER + at]);
        tried("frame", write(tap, bytes, length + VNET_HEADER));
    }
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "stay") == 0)
        for (;;) pause();
    if (argc == 4) {
        out = fdopen(atoi(argv[1]), "w");
        network_device(atoi(argv[2]), argv[3]);
        fclose(out);
        return 0;
    }
    if (argc != 5) return 64;
    out = fdopen(atoi(argv[1]), "w");
    identity();
    files();
    ways_out(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
    fputs("last words\n", stderr);
    fclose(out); /* last: its end tells the reader that all is done */
    return 0;
}
