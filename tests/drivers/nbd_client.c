/* SPDX-License-Identifier: MIT */
#include "drivers/nbd_client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int put(int fd, const void *buf, size_t length)
{
    const char *at = buf;
    while (length) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return -ECONNRESET;
        at += sent;
        length -= (size_t)sent;
    }
    return 0;
}

static int get(int fd, void *buf, size_t length)
{
    char *at = buf;
    while (length) {
        ssize_t got = recv(fd, at, length, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -ECONNRESET;
        at += got;
        length -= (size_t)got;
    }
    return 0;
}

/* NBD_OPT_GO for @name, without wishes. */
static int ask(int fd, const char *name)
{
    uint32_t length = (uint32_t)strlen(name);
    struct vd_nbd_option_head head;
    struct be32 name_length;
    struct be16 wishes;
    head.magic = be64_of(NBD_OPTION_MAGIC);
    head.option = be32_of(NBD_OPT_GO);
    head.length = be32_of((uint32_t)sizeof(name_length) + length + (uint32_t)sizeof(wishes));
    name_length = be32_of(length);
    wishes = be16_of(0);
    int ret = put(fd, &head, sizeof(head));
    if (ret == 0)
        ret = put(fd, &name_length, sizeof(name_length));
    if (ret == 0)
        ret = put(fd, name, length);
    return ret == 0 ? put(fd, &wishes, sizeof(wishes)) : ret;
}

/* Until the server has said all about the export. */
static int listen_to_answers(struct vt_nbd *client)
{
    for (;;) {
        struct vd_nbd_option_reply reply;
        char data[8192];
        int ret = get(client->fd, &reply, sizeof(reply));
        if (ret < 0)
            return ret;
        uint32_t length = be32_get(reply.length);
        if (be64_get(reply.magic) != NBD_OPTION_REPLY_MAGIC || length > sizeof(data))
            return -EPROTO;
        ret = get(client->fd, data, length);
        if (ret < 0)
            return ret;
        uint32_t type = be32_get(reply.type);
        if (type == NBD_REP_ACK)
            return 0;
        if (type != NBD_REP_INFO)
            return -ENOENT;
        struct vd_nbd_info_export info;
        if (length != sizeof(info))
            continue;
        memcpy(&info, data, sizeof(info));
        if (be16_get(info.type) == NBD_INFO_EXPORT) {
            client->size = be64_get(info.size);
            client->flags = be16_get(info.flags);
        }
    }
}

int vt_nbd_begin(struct vt_nbd *client, int fd, const char *name)
{
    *client = (struct vt_nbd){.fd = fd};
    struct vd_nbd_greeting greeting;
    struct be32 flags;
    int ret = get(fd, &greeting, sizeof(greeting));
    if (ret < 0)
        return ret;
    if (be64_get(greeting.magic) != NBD_MAGIC ||
        be64_get(greeting.option_magic) != NBD_OPTION_MAGIC)
        return -EPROTO;
    flags = be32_of(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    ret = put(fd, &flags, sizeof(flags));
    if (ret == 0)
        ret = ask(fd, name);
    return ret == 0 ? listen_to_answers(client) : ret;
}

int vt_nbd_send(struct vt_nbd *client, enum vd_nbd_command command, uint16_t flags, uint64_t offset,
                uint32_t length, const void *buf)
{
    struct vd_nbd_request request;
    request.magic = be32_of(NBD_REQUEST_MAGIC);
    request.flags = be16_of(flags);
    request.command = be16_of((uint16_t)command);
    request.cookie = be64_of(++client->cookie);
    request.offset = be64_of(offset);
    request.length = be32_of(length);
    int ret = put(client->fd, &request, sizeof(request));
    if (ret == 0 && command == NBD_CMD_WRITE)
        ret = put(client->fd, buf, length);
    return ret;
}

int vt_nbd_reply(struct vt_nbd *client, uint32_t length, void *buf)
{
    struct vd_nbd_simple_reply reply;
    int ret = get(client->fd, &reply, sizeof(reply));
    if (ret < 0)
        return ret;
    if (be32_get(reply.magic) != NBD_SIMPLE_REPLY_MAGIC || be64_get(reply.cookie) != client->cookie)
        return -EPROTO;
    if (be32_get(reply.error) != 0)
        return (int)be32_get(reply.error);
    return length ? get(client->fd, buf, length) : 0;
}

int vt_nbd_request(struct vt_nbd *client, enum vd_nbd_command command, uint16_t flags,
                   uint64_t offset, uint32_t length, void *buf)
{
    int ret = vt_nbd_send(client, command, flags, offset, length, buf);
    return ret == 0 ? vt_nbd_reply(client, command == NBD_CMD_READ ? length : 0, buf) : ret;
}

void vt_nbd_end(struct vt_nbd *client, int is_polite)
{
    if (is_polite)
        (void)vt_nbd_send(client, NBD_CMD_DISC, 0, 0, 0, NULL);
    close(client->fd);
    client->fd = -1;
}
