# find_package(normlib CONFIG) gives the target normlib::normlib: the folder of normlib.h. There is nothing to link to.
if(NOT TARGET normlib::normlib)
  get_filename_component(_normlib_include "${CMAKE_CURRENT_LIST_DIR}/../../../include" ABSOLUTE)
  add_library(normlib::normlib INTERFACE IMPORTED)
  set_target_properties(normlib::normlib PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_normlib_include}")
  unset(_normlib_include)
endif()
