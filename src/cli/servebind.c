/* SPDX-License-Identifier: MIT */
/* Making sockets that listen. */
#include "cli/servebind.h"

#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "util/err.h"
#include "util/mem.h"

#define PORT_TRIES   32
#define LOCK_TRIES   100
#define LOCK_WAIT_NS 50000000L

/* --- TCP ------------------------------------------------------------------------------------ */

void vd_tcp_sockets_close(struct vd_tcp_sockets *bound)
{
    for (size_t i = 0; i < bound->entries; i++)
        if (bound->fds[i] >= 0)
            close(bound->fds[i]);
    bound->entries = 0;
}

static void set_port(struct sockaddr_storage *address, uint32_t port)
{
    if (address->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
}

static uint32_t get_port(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)address)->sin6_port)
                                          : ntohs(((const struct sockaddr_in *)address)->sin_port);
}

static int listen_at(int fd, int family, struct sockaddr_storage *address, socklen_t length)
{
    const int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
        return -errno;
    if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)address, length) < 0 || listen(fd, SOMAXCONN) < 0 ||
        getsockname(fd, (struct sockaddr *)address, &length) < 0)
        return -errno;
    return 0;
}

/* Adds a socket; @bound->port, if it is not 0, is what the ones before have got. */
static int bind_one(const struct addrinfo *info, struct vd_tcp_sockets *bound)
{
    struct sockaddr_storage address = {0};
    char *host = bound->hosts[bound->entries];
    char number[VD_TCP_HOST_BYTES - 2];
    if (info->ai_addrlen > sizeof(address))
        return -EAFNOSUPPORT;
    memcpy(&address, info->ai_addr, info->ai_addrlen);
    set_port(&address, bound->port);
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int ret = listen_at(fd, info->ai_family, &address, info->ai_addrlen);
    if (ret == 0 && getnameinfo((struct sockaddr *)&address, info->ai_addrlen, number,
                                sizeof(number), NULL, 0, NI_NUMERICHOST) != 0)
        ret = -EAFNOSUPPORT;
    if (ret < 0) {
        close(fd);
        return ret;
    }
    snprintf(host, VD_TCP_HOST_BYTES, info->ai_family == AF_INET6 ? "[%s]" : "%s", number);
    bound->port = get_port(&address);
    bound->fds[bound->entries++] = fd;
    return 0;
}

/* A name may have addresses of a family that this machine has not. */
static bool is_no_address(int ret)
{
    return ret == -EADDRNOTAVAIL || ret == -EAFNOSUPPORT;
}

static int bind_all(const struct addrinfo *found, uint32_t port, struct vd_tcp_sockets *bound)
{
    int missing = 0;
    *bound = (struct vd_tcp_sockets){.port = port};
    for (; found && bound->entries < VD_TCP_SOCKETS_MAX; found = found->ai_next) {
        if (found->ai_family != AF_INET && found->ai_family != AF_INET6)
            continue;
        int ret = bind_one(found, bound);
        if (is_no_address(ret)) {
            missing = ret;
        } else if (ret < 0) {
            vd_tcp_sockets_close(bound);
            return ret;
        }
    }
    return bound->entries ? 0 : missing ? missing : -EADDRNOTAVAIL;
}

int vd_bind_tcp(const char *host, uint32_t port, struct vd_tcp_sockets *bound,
                struct vdisk_error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char service[16];
    snprintf(service, sizeof(service), "%u", port);
    bound->entries = 0;
    int problem = getaddrinfo(host, service, &hints, &found);
    if (problem)
        return vd_err_set(err, EADDRNOTAVAIL, "%s", gai_strerror(problem));
    /* A port that is free at one address may be taken at the next one. */
    int ret = bind_all(found, port, bound);
    for (int i = 1; port == 0 && ret == -EADDRINUSE && i < PORT_TRIES; i++)
        ret = bind_all(found, port, bound);
    freeaddrinfo(found);
    return ret < 0 ? vd_err_errno(err, -ret, "can not listen there") : 0;
}

/* --- Unix ------------------------------------------------------------------------------------ */

/* Servers that find the same dead file take turns; -1: the folder can not be locked, or is locked
 * by somebody for good, and then it has to do without. */
static int lock_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    CLEANUP_FREE char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    for (int i = 0; fd >= 0 && i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return fd;
        nanosleep(&(struct timespec){.tv_nsec = LOCK_WAIT_NS}, NULL);
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Removes the file at @path if it is a socket on which nobody listens. */
static int remove_dead(const char *path, const struct sockaddr_un *address, struct vdisk_error *err)
{
    struct stat facts;
    if (lstat(path, &facts) < 0)
        return errno == ENOENT ? 0 : vd_err_errno(err, errno, "%s", path);
    if (!S_ISSOCK(facts.st_mode))
        return vd_err_set(err, EEXIST, "%s: there is a file already that is no socket", path);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return vd_err_errno(err, errno, "a socket");
    int problem = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? errno : 0;
    if (problem == 0 || problem == EAGAIN || problem == EINPROGRESS || problem == EPROTOTYPE)
        return vd_err_set(err, EADDRINUSE, "%s: another process listens there", path);
    if (problem != ECONNREFUSED)
        return vd_err_errno(err, problem, "%s: does anybody listen there?", path);
    return unlink(path) < 0 && errno != ENOENT ? vd_err_errno(err, errno, "%s", path) : 0;
}

int vd_bind_unix(const char *path, int *fd, struct vdisk_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof(address.sun_path))
        return vd_err_set(err, ENAMETOOLONG,
                          "%s: the path has %zu bytes; that of a socket has at most %zu", path,
                          length, sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, length + 1);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return vd_err_errno(err, errno, "a Unix socket");
    CLEANUP_CLOSE int lock = lock_folder(path); /* until it listens: before, it looks dead */
    const struct sockaddr *generic = (const struct sockaddr *)&address;
    int ret = bind(*fd, generic, sizeof(address));
    if (ret < 0 && errno == EADDRINUSE) {
        if (lock < 0)
            return vd_err_set(err, EADDRINUSE,
                              "%s: is there already, and its folder can not be locked", path);
        ret = remove_dead(path, &address, err);
        if (ret < 0)
            return ret;
        ret = bind(*fd, generic, sizeof(address));
    }
    if (ret < 0)
        return vd_err_errno(err, errno, "%s: can not listen there", path);
    if (listen(*fd, SOMAXCONN) < 0) {
        ret = vd_err_errno(err, errno, "%s: can not listen there", path);
        unlink(path);
        return ret;
    }
    return 0;
}

/* --- vsock ----------------------------------------------------------------------------------- */

int vd_bind_vsock(uint32_t port, int *fd, struct vdisk_error *err)
{
    const struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    *fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return vd_err_errno(err, errno, "--vsock: the kernel gives no such socket");
    if (bind(*fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(*fd, SOMAXCONN) < 0)
        return vd_err_errno(err, errno, "--vsock %u: can not listen there", port);
    return 0;
}
