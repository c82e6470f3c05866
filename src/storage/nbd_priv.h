/* SPDX-License-Identifier: MIT */
/*
 * Inside the nbd driver:
 *
 *   nbd.c          the driver's functions: options, open, size, stats
 *   nbd_data.c     reads, writes, zeroes and discards, as calls of pieces
 *   nbd_extent.c   block status, and the runs that are remembered
 *   nbd_call.c     one call on one connection, driven by the threads that wait for it; trying again
 *   nbd_connect.c  a connection: made, its facts read, made anew
 *   nbd_durable.c  what is acknowledged and not flushed, and whether it can have been lost
 *   nbd_dirty.c    what a dirty bitmap of the server tells, by a client of its own
 *   nbd_uri.c      names
 *
 * libnbd keeps the protocol: it has a handle for each connection, whose commands are asynchronous.
 *
 * N1  A handle is touched only with the lock of its connection held.  One of the threads that wait
 *     for answers, the leader, polls its socket, without the lock; whoever waits and finds no
 * leader becomes it.  So a single thread does all by itself, and wakes nobody. N2  A buffer of the
 * caller's is not known to libnbd any more when the call returns: every piece of it was answered,
 * or its handle was closed, or is dead and has forgotten it. N3  Changes that were acknowledged and
 * not flushed are lost if their server dies.  The *anchor* is the oldest connection that has
 * acknowledged such a change: it is older than each of them, so while it lives so does the server
 * that has them, and only a flush on it proves anything. N4  When a connection is lost while there
 * are such changes, the storage is broken: see nbd.h. N5  A change that was sent to a server that
 * then fell silent is not sent again.
 */
#ifndef VD_STORAGE_NBD_PRIV_H
#define VD_STORAGE_NBD_PRIV_H

#include <libnbd.h>
#include <stdatomic.h>

#include "storage/driver.h"
#include "storage/nbd.h"
#include "storage/nbd_uri.h"
#include "storage/network.h"

/* Pieces of a call that are under way at once, and bytes of a piece of data. */
#define VD_NBD_PIECES_MAX  16u
#define VD_NBD_PIECE_BYTES (1u << 20)

/* Parts of an answer out of order. */
#define VD_NBD_PARTS_MAX 64u

/* Zeroes and trims carry no data; this takes no server long, unless it writes all the zeros. */
#define VD_NBD_ZERO_BYTES (256u << 20)

struct vd_nbd;

/* What a server says of the export. */
struct vd_nbd_facts {
    uint64_t size;
    uint32_t min_bytes;     /* smallest unit of a request */
    uint32_t payload_bytes; /* most data of a request */
    uint32_t can;           /* of enum vd_nbd_can */
};

enum vd_nbd_can {
    VD_NBD_CAN_WRITE = 1 << 0,
    VD_NBD_CAN_FLUSH = 1 << 1,
    VD_NBD_CAN_FUA = 1 << 2,
    VD_NBD_CAN_ZERO = 1 << 3,
    VD_NBD_CAN_FAST_ZERO = 1 << 4,
    VD_NBD_CAN_TRIM = 1 << 5,
    VD_NBD_CAN_EXTENTS = 1 << 6,
    VD_NBD_CAN_MULTI_CONN = 1 << 7
};

enum vd_nbd_op {
    VD_NBD_READ,
    VD_NBD_WRITE,
    VD_NBD_ZERO,
    VD_NBD_TRIM,
    VD_NBD_FLUSH,
    VD_NBD_STATUS
};

enum vd_nbd_piece_state {
    VD_NBD_WANTED, /* not asked for, or no answer came */
    VD_NBD_ASKED,
    VD_NBD_ANSWERED /* see error */
};

struct vd_nbd_call;

/* One command of the protocol. */
struct vd_nbd_piece {
    struct vd_nbd_call *call;
    struct vd_range range;
    uint8_t *data;  /* to read into or write from */
    bool is_bounce; /* data is the piece's own, not the caller's */
    enum vd_nbd_piece_state state;
    int error; /* ANSWERED: 0 or a positive errno, the server's */
    /* VD_NBD_READ: what came, as libnbd does not mind what is missing or comes twice */
    uint64_t front_bytes;   /* from front to back */
    struct vd_range *parts; /* others, VD_NBD_PARTS_MAX at most; NULL: none.  Owned */
    unsigned part_count;    /* counts on when there is no more room */
};

/* What a thread waits for: pieces of one kind, on one connection. */
struct vd_nbd_call {
    enum vd_nbd_op op;
    uint32_t flags; /* LIBNBD_CMD_FLAG_... */
    struct vd_nbd_piece *pieces;
    unsigned piece_count;
    nbd_extent_callback extent; /* VD_NBD_STATUS */
    /* of the try under way; under the connection's lock */
    struct vd_nbd_conn *conn;
    struct vd_nbd_call *next;
    struct vd_cond changed;
    unsigned left;     /* pieces ASKED */
    bool is_timed_out; /* its connection was, and some of it had been sent */
};

struct vd_nbd_conn {
    struct vd_nbd *nbd;
    unsigned index;
    atomic_uint load; /* calls that have chosen it */

    struct vd_mutex lock;       /* after: none; before: vd_nbd_durable.lock */
    struct vd_cond changed;     /* is_connecting ended */
    struct nbd_handle *handle;  /* NULL: not connected */
    uint64_t number;            /* counting all of the storage; 0: never connected yet */
    struct vd_nbd_call *calls;  /* under way */
    bool is_led;                /* a thread polls, without the lock */
    bool is_connecting;         /* a thread makes the handle, without the lock */
    unsigned polled;            /* directions that the leader waits for */
    unsigned failures;          /* attempts to connect that failed, ever */
    uint64_t moved_ms;          /* when something last moved */
    uint64_t answered_ms;       /* when a piece was answered, or the first one asked for */
    struct vdisk_error failure; /* why it was lost, or could not be made */
    int wake_fd;                /* for the leader; made with the first handle */
};

/* N3, N4 */
struct vd_nbd_durable {
    struct vd_mutex lock; /* after: a connection's */
    uint64_t acked;       /* changes acknowledged, ever */
    uint64_t flushed;     /* of them, those that a flush has covered */
    unsigned anchor;      /* which connection; means something if flushed < acked */
    uint64_t anchor_number;
    uint64_t next_number;
    atomic_bool is_broken;
};

#define VD_NBD_RUNS_MAX 4096u

/* Runs that a server has answered, from @start up to runs[run_count - 1].end. */
struct vd_nbd_run {
    uint64_t end;
    enum vd_storage_extent_kind kind;
};

struct vd_nbd_extents {
    struct vd_mutex lock; /* after: none */
    struct vd_nbd_run *runs;
    size_t run_count;
    uint64_t start;
    uint64_t ahead_bytes; /* how much to ask for next time */
    uint64_t started;     /* changes that began, and that ended */
    uint64_t ended;
};

struct vd_nbd {
    struct vd_network_settings settings;
    struct vd_nbd_uri uri;
    struct vd_nbd_facts facts;
    const char *context; /* that is asked for in place of base:allocation; NULL: that one */
    bool is_trusted;     /* the URI is the user's own */
    bool is_writable;
    bool is_sync;
    struct vd_nbd_conn *conns;
    unsigned conn_slots;
    atomic_uint conn_count; /* those that may be used */
    struct vd_nbd_durable durable;
    struct vd_nbd_extents extents;
    _Atomic uint64_t request_count;
    _Atomic uint64_t received_bytes;
};

/* nbd.c */

/* How a client is made. */
struct vd_nbd_options {
    const struct vd_storage_options *storage;
    const char *context; /* outlives the client; NULL: base:allocation, for extents */
};

/* Connects once.  Goes to vd_nbd_free(). */
int vd_nbd_new(const char *name, const struct vd_nbd_options *options, struct vd_nbd **nbd,
               struct vdisk_error *err);
void vd_nbd_free(struct vd_nbd *nbd);

/* nbd_connect.c */

/* Sets what libnbd says of its last failure in this thread. */
int vd_nbd_library_error(int fallback_code, struct vdisk_error *err);

/* Makes a handle that is connected, and reads what the server says, within @timeout_ms. */
int vd_nbd_connect(struct vd_nbd *nbd, uint32_t timeout_ms, struct nbd_handle **handle,
                   struct vd_nbd_facts *facts, struct vdisk_error *err);

/* Has the connection the context that was asked for? */
bool vd_nbd_has_context(struct vd_nbd *nbd);

/* Asks the server, over another connection, which contexts the export has: calls @found for each.
 * The client does nothing else; its first connection is closed. */
typedef void (*vd_nbd_context_fn)(void *opaque, const char *name);
int vd_nbd_list_contexts(struct vd_nbd *nbd, vd_nbd_context_fn found, void *opaque,
                         struct vdisk_error *err);

/* Gives @conn its first handle. */
int vd_nbd_conn_adopt(struct vd_nbd_conn *conn, struct nbd_handle *handle, struct vdisk_error *err);

/*
 * 0: it is connected, now or still.  Otherwise the error of one attempt, by whatever thread.  If
 * one that was never connected can not be, it and those behind it are used no more (conn_count).
 */
int vd_nbd_conn_ready(struct vd_nbd_conn *conn, struct vdisk_error *err) VD_REQUIRES(conn->lock);

/* Ends it politely if it is idle.  Nobody uses it any more. */
void vd_nbd_conn_close(struct vd_nbd_conn *conn);

/* nbd_call.c */

/* Done, tried again as the settings say: 0, or the first error. */
int vd_nbd_run(struct vd_nbd *nbd, struct vd_nbd_call *call, struct vdisk_error *err);

/* As vd_nbd_run(), once and on this connection only, and only if it is still the one so numbered.
 */
int vd_nbd_run_on(struct vd_nbd_conn *conn, uint64_t number, struct vd_nbd_call *call,
                  struct vdisk_error *err);

/* nbd_durable.c */

void vd_nbd_durable_init(struct vd_nbd_durable *durable);
uint64_t vd_nbd_durable_number(struct vd_nbd_durable *durable);

/* A change was acknowledged that is not durable yet. */
void vd_nbd_note_acked(struct vd_nbd_durable *durable, unsigned index, uint64_t number);

/* A connection was lost. */
void vd_nbd_note_lost(struct vd_nbd_durable *durable);

/* Fails if the storage is broken. */
int vd_nbd_check_whole(struct vd_nbd *nbd, struct vdisk_error *err);

int vd_nbd_flush(struct vd_storage *storage, struct vdisk_error *err);

/* nbd_data.c */

int vd_nbd_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                  uint64_t offset, struct vdisk_error *err);
int vd_nbd_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                   uint64_t offset, struct vdisk_error *err);
int vd_nbd_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                        struct vdisk_error *err);
int vd_nbd_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err);

/* nbd_extent.c */

int vd_nbd_extent(struct vd_storage *storage, struct vd_range range,
                  struct vd_storage_extent *extent, struct vdisk_error *err);

/* Around each change: what is remembered of @range is forgotten. */
void vd_nbd_change_begin(struct vd_nbd_extents *extents, struct vd_range range);
void vd_nbd_change_end(struct vd_nbd_extents *extents, struct vd_range range);

#endif
