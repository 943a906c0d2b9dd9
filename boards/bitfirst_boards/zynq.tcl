# Block design of a Zynq-7000: processing system, AXI DMA without scatter-gather, and the device; then its bitstream.
# `top.tcl` sets before: part, board_files (pattern of their names), clock_mhz, link_bits, core (its
# vendor:library:name:version), sensors (1: it has an I2C bus, with its pins in sensors.xdc), no_dsp
# (1: multipliers are made of LUTs).

create_project -force top vivado -part $part
set found {}
if {$board_files ne ""} {
    set found [get_board_parts -quiet -latest_file_version $board_files]
}
if {[llength $found]} {
    set_property board_part [lindex $found 0] [current_project]
} else {
    puts "No board files: memory and peripherals of the processing system stay at Vivado's defaults."
    puts "Configure them by hand, or start the board with an image whose boot loader has its own settings of them."
}
set_property ip_repo_paths [file normalize ip] [current_project]
update_ip_catalog

create_bd_design system
create_bd_cell -type ip -vlnv xilinx.com:ip:processing_system7 ps
apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 -config [list \
    make_external "FIXED_IO, DDR" apply_board_preset [llength $found] Master Disable Slave Disable] [get_bd_cells ps]
set_property -dict [list \
    CONFIG.PCW_EN_CLK0_PORT 1 \
    CONFIG.PCW_EN_RST0_PORT 1 \
    CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ $clock_mhz \
    CONFIG.PCW_USE_M_AXI_GP0 1 \
    CONFIG.PCW_USE_S_AXI_HP0 1 \
    CONFIG.PCW_USE_FABRIC_INTERRUPT 1 \
    CONFIG.PCW_IRQ_F2P_INTR 1] [get_bd_cells ps]

create_bd_cell -type ip -vlnv $core device
create_bd_cell -type ip -vlnv xilinx.com:ip:axi_dma dma
set_property -dict [list \
    CONFIG.c_include_sg 0 \
    CONFIG.c_sg_length_width 23 \
    CONFIG.c_m_axis_mm2s_tdata_width $link_bits] [get_bd_cells dma]
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect control
set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI 2] [get_bd_cells control]
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect memory
set_property -dict [list CONFIG.NUM_SI 2 CONFIG.NUM_MI 1] [get_bd_cells memory]
create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset
create_bd_cell -type ip -vlnv xilinx.com:ip:xlconcat interrupts
set_property CONFIG.NUM_PORTS 3 [get_bd_cells interrupts]

foreach {from to} {
    dma/M_AXIS_MM2S   device/s_axis
    device/m_axis     dma/S_AXIS_S2MM
    ps/M_AXI_GP0      control/S00_AXI
    control/M00_AXI   device/s_axi
    control/M01_AXI   dma/S_AXI_LITE
    dma/M_AXI_MM2S    memory/S00_AXI
    dma/M_AXI_S2MM    memory/S01_AXI
    memory/M00_AXI    ps/S_AXI_HP0
} {
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}
foreach {from to} {
    ps/FCLK_RESET0_N  reset/ext_reset_in
    device/irq        interrupts/In0
    dma/mm2s_introut  interrupts/In1
    dma/s2mm_introut  interrupts/In2
    interrupts/dout   ps/IRQ_F2P
} {
    connect_bd_net [get_bd_pins $from] [get_bd_pins $to]
}
foreach pin {
    device/aclk control/aclk memory/aclk reset/slowest_sync_clk ps/M_AXI_GP0_ACLK ps/S_AXI_HP0_ACLK
    dma/s_axi_lite_aclk dma/m_axi_mm2s_aclk dma/m_axi_s2mm_aclk
} {
    connect_bd_net [get_bd_pins ps/FCLK_CLK0] [get_bd_pins $pin]
}
foreach pin {device/aresetn control/aresetn memory/aresetn dma/axi_resetn} {
    connect_bd_net [get_bd_pins reset/peripheral_aresetn] [get_bd_pins $pin]
}
if {$sensors} {
    create_bd_intf_port -mode Master -vlnv xilinx.com:interface:iic_rtl:1.0 sensors
    connect_bd_intf_net [get_bd_intf_ports sensors] [get_bd_intf_pins device/i2c]
    add_files -fileset constrs_1 sensors.xdc
}
assign_bd_address
validate_bd_design
save_bd_design
add_files [make_wrapper -files [get_files system.bd] -top]
set_property top system_wrapper [current_fileset]
update_compile_order -fileset sources_1
if {$no_dsp} {
    # The cores are synthesised with the rest: in runs of their own they would not know of it.
    set_property synth_checkpoint_mode None [get_files system.bd]
    set_property STEPS.SYNTH_DESIGN.ARGS.MAX_DSP 0 [get_runs synth_1]
}

launch_runs impl_1 -to_step write_bitstream
wait_on_run impl_1
if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} {
    error "the implementation failed: see vivado/top.runs"
}
open_run impl_1
report_utilization -file top_utilization.rpt
report_timing_summary -file top_timing.rpt
report_power -file top_power.rpt
if {[get_property SLACK [get_timing_paths]] < 0} {
    error "the clock is missed: see top_timing.rpt"
}
file copy -force vivado/top.runs/impl_1/system_wrapper.bit top.bit
write_hw_platform -fixed -force -include_bit top.xsa
quit
