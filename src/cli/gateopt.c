/* SPDX-License-Identifier: MIT */
/*
 * Which files an image may name: --allow-path, --allow-json and --no-backing.
 *
 * Unless told otherwise, those in the directory of the image that is named on the command line.
 */
#include <stdlib.h>

#include "cli/cli.h"

void vd_cli_gate_init(struct vd_cli *cli)
{
    cli->gate = (struct vdisk_gate){
        .struct_bytes = sizeof(cli->gate),
        .flags = VDISK_GATE_BESIDE,
    };
}

void vd_cli_gate_destroy(struct vd_cli *cli)
{
    free((void *)cli->gate.paths);
    cli->gate = (struct vdisk_gate){0};
}

int vd_cli_gate_allow_path(struct vd_cli *cli, const char *path)
{
    struct vdisk_gate *gate = &cli->gate;
    if (!*path)
        return vd_cli_usage_error(cli, "--allow-path: the name of a directory is wanted");
    const char **more =
        realloc((void *)gate->paths, (gate->path_entries + 1) * sizeof(*gate->paths));
    if (!more) {
        vd_cli_error("out of memory for --allow-path");
        return 1;
    }
    more[gate->path_entries++] = path;
    gate->paths = more;
    return VD_CLI_GO;
}

int vd_cli_gate_allow_json(struct vd_cli *cli)
{
    cli->gate.flags |= VDISK_GATE_JSON;
    return VD_CLI_GO;
}

int vd_cli_gate_close(struct vd_cli *cli)
{
    cli->no_backing = true;
    cli->gate.flags &= ~(uint32_t)VDISK_GATE_BESIDE;
    return VD_CLI_GO;
}

int vd_cli_gate_check(const struct vd_cli *cli)
{
    if (cli->no_backing && (cli->gate.path_entries || (cli->gate.flags & VDISK_GATE_JSON)))
        return vd_cli_usage_error(cli, "--no-backing permits nothing: it does not go with "
                                       "--allow-path and --allow-json");
    return VD_CLI_GO;
}
