/* SPDX-License-Identifier: MIT */
/* Numbers of the NBD protocol, and what they are called. */
#include "nbdproto/nbdproto.h"

#include <errno.h>

_Static_assert(sizeof(struct vd_nbd_greeting) == 18, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_option_head) == 16, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_option_reply) == 20, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_export_reply) == 10, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_info_export) == 12, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_info_block_size) == 14, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_request) == 28, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_extended_request) == 32, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_simple_reply) == 16, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_chunk) == 20, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_extended_chunk) == 32, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_hole) == 12, "as on the wire");
_Static_assert(sizeof(struct vd_nbd_error) == 6, "as on the wire");

uint32_t vd_nbd_error_of(int code)
{
    switch (code) {
    case EPERM:
    case EROFS:
    case EACCES:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

const char *vd_nbd_command_name(uint16_t command)
{
    static const char *const names[] = {"READ", "WRITE", "DISC",         "FLUSH",
                                        "TRIM", "CACHE", "WRITE_ZEROES", "BLOCK_STATUS"};
    return command < sizeof(names) / sizeof(names[0]) ? names[command] : "unknown";
}

const char *vd_nbd_option_name(uint32_t option)
{
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
        return "NBD_OPT_EXPORT_NAME";
    case NBD_OPT_ABORT:
        return "NBD_OPT_ABORT";
    case NBD_OPT_LIST:
        return "NBD_OPT_LIST";
    case NBD_OPT_STARTTLS:
        return "NBD_OPT_STARTTLS";
    case NBD_OPT_INFO:
        return "NBD_OPT_INFO";
    case NBD_OPT_GO:
        return "NBD_OPT_GO";
    case NBD_OPT_STRUCTURED_REPLY:
        return "NBD_OPT_STRUCTURED_REPLY";
    case NBD_OPT_LIST_META_CONTEXT:
        return "NBD_OPT_LIST_META_CONTEXT";
    case NBD_OPT_SET_META_CONTEXT:
        return "NBD_OPT_SET_META_CONTEXT";
    case NBD_OPT_EXTENDED_HEADERS:
        return "NBD_OPT_EXTENDED_HEADERS";
    default:
        return "unknown";
    }
}
