/* SPDX-License-Identifier: MIT */
/* The vdisk command: everything it does is in the library of the command. */
#include "cli/cli.h"

int main(int argc, char **argv)
{
    return vd_cli_main(argc, argv);
}
