/* SPDX-License-Identifier: MIT */
/*
 * The NBD protocol as bytes on the wire: numbers, and messages of fixed layout, all big-endian.
 * Names are those of the specification (NetworkBlockDevice/nbd, doc/proto.md).
 */
#ifndef VD_NBDPROTO_NBDPROTO_H
#define VD_NBDPROTO_NBDPROTO_H

#include "util/endian.h"

#define NBD_MAGIC                  UINT64_C(0x4e42444d41474943)
#define NBD_OPTION_MAGIC           UINT64_C(0x49484156454f5054)
#define NBD_OPTION_REPLY_MAGIC     UINT64_C(0x0003e889045565a9)
#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_CHUNK_MAGIC            0x668e33efu /* of structured replies */
#define NBD_EXTENDED_CHUNK_MAGIC   0x6e8a278cu

#define NBD_PORT                   10809u
#define NBD_STRING_MAX             4096u       /* bytes of a string, such as a name */
#define NBD_PAYLOAD_BASE           (32u << 20) /* what every client may send at once */

/* Handshake flags of the server, and client flags. */
#define NBD_FLAG_FIXED_NEWSTYLE   (1u << 0)
#define NBD_FLAG_NO_ZEROES        (1u << 1)
#define NBD_FLAG_C_FIXED_NEWSTYLE (1u << 0)
#define NBD_FLAG_C_NO_ZEROES      (1u << 1)

/* Transmission flags. */
#define NBD_FLAG_HAS_FLAGS          (1u << 0)
#define NBD_FLAG_READ_ONLY          (1u << 1)
#define NBD_FLAG_SEND_FLUSH         (1u << 2)
#define NBD_FLAG_SEND_FUA           (1u << 3)
#define NBD_FLAG_ROTATIONAL         (1u << 4)
#define NBD_FLAG_SEND_TRIM          (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES  (1u << 6)
#define NBD_FLAG_SEND_DF            (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN     (1u << 8)
#define NBD_FLAG_SEND_RESIZE        (1u << 9)
#define NBD_FLAG_SEND_CACHE         (1u << 10)
#define NBD_FLAG_SEND_FAST_ZERO     (1u << 11)
#define NBD_FLAG_BLOCK_STAT_PAYLOAD (1u << 12)

enum vd_nbd_option {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11
};

/* Types of option replies. */
#define NBD_REP_ACK                 1u
#define NBD_REP_SERVER              2u
#define NBD_REP_INFO                3u
#define NBD_REP_META_CONTEXT        4u
#define NBD_REP_ERR(number)         (0x80000000u | (number))
#define NBD_REP_ERR_UNSUP           NBD_REP_ERR(1u)
#define NBD_REP_ERR_POLICY          NBD_REP_ERR(2u)
#define NBD_REP_ERR_INVALID         NBD_REP_ERR(3u)
#define NBD_REP_ERR_PLATFORM        NBD_REP_ERR(4u)
#define NBD_REP_ERR_TLS_REQD        NBD_REP_ERR(5u)
#define NBD_REP_ERR_UNKNOWN         NBD_REP_ERR(6u)
#define NBD_REP_ERR_SHUTDOWN        NBD_REP_ERR(7u)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERR(8u)
#define NBD_REP_ERR_TOO_BIG         NBD_REP_ERR(9u)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERR(10u)

#define NBD_INFO_EXPORT             0u
#define NBD_INFO_NAME               1u
#define NBD_INFO_DESCRIPTION        2u
#define NBD_INFO_BLOCK_SIZE         3u

enum vd_nbd_command {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7
};

#define NBD_CMD_FLAG_FUA         (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE     (1u << 1)
#define NBD_CMD_FLAG_DF          (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE     (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO   (1u << 4)
#define NBD_CMD_FLAG_PAYLOAD_LEN (1u << 5)

/* Errors of replies. */
#define NBD_EPERM     1u
#define NBD_EIO       5u
#define NBD_ENOMEM    12u
#define NBD_EINVAL    22u
#define NBD_ENOSPC    28u
#define NBD_EOVERFLOW 75u
#define NBD_ENOTSUP   95u
#define NBD_ESHUTDOWN 108u

/* Structured reply chunks. */
#define NBD_REPLY_FLAG_DONE             (1u << 0)
#define NBD_REPLY_TYPE_NONE             0u
#define NBD_REPLY_TYPE_OFFSET_DATA      1u
#define NBD_REPLY_TYPE_OFFSET_HOLE      2u
#define NBD_REPLY_TYPE_BLOCK_STATUS     5u
#define NBD_REPLY_TYPE_BLOCK_STATUS_EXT 6u
#define NBD_REPLY_TYPE_ERROR            0x8001u
#define NBD_REPLY_TYPE_ERROR_OFFSET     0x8002u

/* Flags of extents in "base:allocation". */
#define NBD_STATE_HOLE (1u << 0)
#define NBD_STATE_ZERO (1u << 1)

/* ---- Negotiation ---- */

struct vd_nbd_greeting {
    struct be64 magic;        /* NBD_MAGIC */
    struct be64 option_magic; /* NBD_OPTION_MAGIC */
    struct be16 flags;
};

struct vd_nbd_option_head {
    struct be64 magic; /* NBD_OPTION_MAGIC */
    struct be32 option;
    struct be32 length; /* of the data that follows */
};

struct vd_nbd_option_reply {
    struct be64 magic; /* NBD_OPTION_REPLY_MAGIC */
    struct be32 option;
    struct be32 type;
    struct be32 length; /* of the data that follows */
};

/* Follows NBD_OPT_EXPORT_NAME, without a head; then 124 zeros, unless NO_ZEROES. */
struct vd_nbd_export_reply {
    struct be64 size;
    struct be16 flags;
};

struct vd_nbd_info_export {
    struct be16 type; /* NBD_INFO_EXPORT */
    struct be64 size;
    struct be16 flags;
};

struct vd_nbd_info_block_size {
    struct be16 type; /* NBD_INFO_BLOCK_SIZE */
    struct be32 minimum;
    struct be32 preferred;
    struct be32 maximum;
};

/* ---- Transmission ---- */

struct vd_nbd_request {
    struct be32 magic; /* NBD_REQUEST_MAGIC */
    struct be16 flags;
    struct be16 command;
    struct be64 cookie;
    struct be64 offset;
    struct be32 length;
};

struct vd_nbd_extended_request {
    struct be32 magic; /* NBD_EXTENDED_REQUEST_MAGIC */
    struct be16 flags;
    struct be16 command;
    struct be64 cookie;
    struct be64 offset;
    struct be64 length; /* of the payload, with NBD_CMD_FLAG_PAYLOAD_LEN; else of the effect */
};

struct vd_nbd_simple_reply {
    struct be32 magic; /* NBD_SIMPLE_REPLY_MAGIC */
    struct be32 error;
    struct be64 cookie;
};

struct vd_nbd_chunk {
    struct be32 magic; /* NBD_CHUNK_MAGIC */
    struct be16 flags;
    struct be16 type;
    struct be64 cookie;
    struct be32 length; /* of the payload */
};

struct vd_nbd_extended_chunk {
    struct be32 magic; /* NBD_EXTENDED_CHUNK_MAGIC */
    struct be16 flags;
    struct be16 type;
    struct be64 cookie;
    struct be64 offset; /* of the request */
    struct be64 length; /* of the payload */
};

/* Payloads of chunks: of OFFSET_HOLE; of ERROR and ERROR_OFFSET, before the message; of block
 * status, before the extents. */
struct vd_nbd_hole {
    struct be64 offset;
    struct be32 length;
};

struct vd_nbd_error {
    struct be32 error;
    struct be16 message_length;
};

struct vd_nbd_extent {
    struct be32 length;
    struct be32 flags;
};

struct vd_nbd_status_ext_head {
    struct be32 context;
    struct be32 extents;
};

struct vd_nbd_extended_extent {
    struct be64 length;
    struct be64 flags;
};

/* Which error of the protocol tells of the errno @code (positive)?  What has no number of its own
 * is NBD_EINVAL or NBD_EIO. */
uint32_t vd_nbd_error_of(int code);

/* Words for logs: "READ", "NBD_OPT_GO"; "unknown" for any other number. */
const char *vd_nbd_command_name(uint16_t command);
const char *vd_nbd_option_name(uint32_t option);

#endif
