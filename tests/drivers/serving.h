/* SPDX-License-Identifier: MIT */
/* A served image, and the other end of its connection: for the tests of the transmission. */
#ifndef VT_SERVING_H
#define VT_SERVING_H

#include "drivers/check.h"

#include <pthread.h>

#include "drivers/fault.h"
#include "serve/transmit.h"

/* The image and what is said about it; several connections may share it. */
struct serving {
    struct vdisk_image *image;
    struct vd_storage *faults; /* of start_slow(): for vt_fault_set() */
    struct vd_export export;
    struct vd_pool *pool;
    struct vd_log log;
    atomic_bool is_stopping;
    uint64_t memory_bytes;
    uint32_t stall_ms;
    uint32_t idle_ms;
    struct vd_spinners spinners;
};

/* One connection: both ends, and the thread that serves it. */
struct client {
    struct serving *serving;
    int fd; /* the client's end */
    struct vd_stream stream;
    struct vd_session session;
    pthread_t thread;
    int ret; /* of vd_transmit(), once joined */
    struct vdisk_error err;
};

enum client_mode {
    CLIENT_SIMPLE,
    CLIENT_STRUCTURED,
    CLIENT_EXTENDED
};

/* Serves an empty disk in memory. */
void serving_start(struct serving *serving, const char *format, uint64_t size);
/* The same, but nothing is at hand: workers do everything.  serving->faults can make it fail. */
void serving_start_slow(struct serving *serving, const char *format, uint64_t size);
/* Serves @image, which is the callee's from now on. */
void serving_start_on(struct serving *serving, struct vdisk_image *image);
void serving_stop(struct serving *serving);

/* Connects; what the session is may be changed then, until client_run() has it served. */
void client_prepare(struct client *client, struct serving *serving, enum client_mode mode);
void client_run(struct client *client);
/* Both. */
void client_start(struct client *client, struct serving *serving, enum client_mode mode);
/* Waits for the end of the connection; closes both ends. */
void client_join(struct client *client);
/* Says DISC, and expects that all is well. */
void client_disconnect(struct client *client);

struct ask {
    uint16_t command;
    uint16_t flags;
    uint64_t offset;
    uint64_t length;
    const void *payload; /* of @length bytes; PAYLOAD_LEN is added where it is due */
};

/* A chunk of a reply, or a simple reply as one with an error or without a type. */
struct answer {
    uint32_t error; /* of the protocol; 0: none */
    unsigned data_chunks;
    unsigned hole_chunks;
    unsigned status_chunks;
    char message[256];
    /* What status chunks said. */
    struct {
        uint32_t context;
        size_t entries;
        struct vd_context_extent extents[64];
    } status[4];
};

void client_send(struct client *client, uint64_t cookie, const struct ask *ask);
/* The next whole reply must be that to @cookie, which was @ask; what was read goes to @data. */
void client_receive(struct client *client, uint64_t cookie, const struct ask *ask, void *data,
                    struct answer *answer);
/* Both; returns the error of the protocol. */
uint32_t client_ask(struct client *client, const struct ask *ask, void *data);
/* The next reply, whichever it is: its cookie.  For simple replies without data, or with
 * structured ones. */
uint64_t client_receive_any(struct client *client, uint32_t *error);

void client_write_all(struct client *client, const void *bytes, size_t length);
void client_read_all(struct client *client, void *bytes, size_t length);

#endif
